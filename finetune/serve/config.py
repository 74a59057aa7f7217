"""The keys of ``python -m finetune serve``."""

import ipaddress
from dataclasses import dataclass

from engine.config.parser import key
from engine.errors import UserError


@dataclass
class ServeConfig:
    """Holds the keys of ``python -m finetune serve``."""

    run: str = key(
        "",
        "as of predict: a run or weights for bodies, one for hands, or both; default: body and "
        "hand, as far as they ship",
        path="several",
    )
    port: int = key(7860, "of the page; 0: any that is free", low=0, high=65535)
    host: str = key("127.0.0.1", "address that the page is bound to")
    expose: bool = key(
        False, "allow a host= that is not this machine alone: everybody who reaches it may use it"
    )
    upload_mb: float = key(200.0, "largest file that is taken, megabytes", low=0.01)
    megapixels: float = key(50.0, "largest image, and frame of a clip", low=0.01)
    seconds: float = key(20.0, "longest clip", low=0.1)
    least_score: float = key(
        0.3, "people and hands that are found with a lower score are left out", low=0, high=1
    )
    device: str = key("auto", "where to run", choices=("auto", "cpu", "cuda"))

    def check(self) -> None:
        """UserError where the page would be open to others without a word on it."""
        if not (is_loopback(self.host) or self.expose):
            raise UserError(
                f"host={self.host} is not this machine alone: whoever reaches it could use the "
                "page; set expose=true too if that is meant"
            )


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine that others cannot reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
