"""Names of people, and texts that people write: compared as they look, not byte by byte."""

import codecs
import hashlib
import unicodedata

BOM = "\ufeff"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def normalise(name: str) -> str:
    """A name without surrounding white space, in Unicode's form NFC.

    NFC makes one of two spellings that no screen tells apart (an e with an accent, as one letter or
    as two). NFKC would also make one of names that do look different, such as "p²" and "p2", which
    may be two people.
    """
    return unicodedata.normalize("NFC", name.strip().strip(BOM).strip())


def mark(subject: str) -> int:
    """The 64-bit hash of a subject's name.

    Two of 100 million names share one by chance once in 4000 such sets.
    """
    data = normalise(subject).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def decode_text(data: bytes) -> str:
    """The text of a file that a person wrote.

    Read are UTF-8, with a byte-order mark or without, and UTF-16 with one (Notepad's "Unicode").

    Raises:
        UnicodeDecodeError: it is neither.
    """
    return data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
