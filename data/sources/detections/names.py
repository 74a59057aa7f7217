"""Which video, or still image, a name in a file of detections means.

A name fits a video if its folders are the last folders of the video's path, or if the video's path
inside the folder of videos ends the name (a file that was made elsewhere, with that machine's
paths). The suffix may be left out. Two videos of one base name are told apart by their folders, and
a name that fits both is refused.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Mapping

from data.sources.detections.source import ANY
from data.sources.tables import quote
from engine.errors import UserError

SHOWN = 5  # names in a message


class VideoNames:
    """Finds videos by the names that files give them.

    Args:
        videos: {path relative to the folder of videos or images: path}.
        path: of the file of detections, for messages.
    """

    def __init__(self, videos: Mapping[str, str], path: str) -> None:
        self.path, self.keys = path, list(videos)
        self._paths = {}
        self._by_stem = defaultdict(list)
        for key, whole in videos.items():
            ways = _parts(key), _parts(os.path.abspath(whole))
            self._paths[key] = ways
            for last in {ways[0][-1], ways[1][-1], _stem(ways[1][-1])}:
                self._by_stem[last].append(key)
        self._known: dict[str, tuple[str, bool] | None] = {}
        self._named: dict[str, dict[str, bool]] = defaultdict(dict)
        self.unknown: dict[str, None] = {}  # first names that no video has, in order

    def find(self, names: tuple[str, ...]) -> tuple[str | None, int]:
        """(key of the video that the first fitting of ``names`` means or None, which it was).

        Raises:
            UserError: a name fits several videos.
        """
        for place, name in enumerate(names):
            if name not in self._known:
                self._known[name] = self._look_up(name)
            known = self._known[name]
            if known is not None:
                key, is_sure = known
                self._named[key][name] = is_sure
                return key, place
        self.unknown.setdefault(names[0])
        return None, 0

    def misfits(self) -> list[tuple[str, str]]:
        """[(key, name)] of names that fit a video less well than another name that was found.

        Raises:
            UserError: two names fit one video equally, and neither is its path.
        """
        worse = []
        for key, names in self._named.items():
            unsure = [name for name, is_sure in names.items() if not is_sure]
            if len(unsure) < len(names):
                worse += [(key, name) for name in unsure]
            elif len({_parts(name)[:-1] for name in unsure}) > 1:
                raise UserError(
                    f"{self.path} has boxes for {list_some(unsure)}, and the only one that they "
                    f"could mean is {key}: name it by its path"
                )
        return worse

    def _look_up(self, name: str) -> tuple[str, bool] | None:
        if name == ANY:
            return (self.keys[0], True) if len(self.keys) == 1 else None
        parts = _parts(name)
        if not parts:
            return None
        whole, stem = self._by_stem.get(parts[-1]), self._by_stem.get(_stem(parts[-1]))
        # A suffix that the video does not have fits less well than none.
        for keys, is_same in ((whole, True), (stem, False)):
            fits = {key: self._fit(parts, key) for key in keys or ()}
            sure = [key for key, (is_sure, _) in fits.items() if is_sure]
            if len(sure) > 1:
                exact = [key for key in sure if self._paths[key][0][:-1] == parts[:-1]]
                sure = exact if len(exact) == 1 else sure
            likely = [key for key, (is_sure, depth) in fits.items() if not is_sure and depth >= 0]
            if len(sure) > 1:
                raise UserError(
                    f"{self.path}: '{quote(name)}' may be {list_some(sure)}; name it by its path"
                )
            if sure:
                return sure[0], is_same
            if likely:
                return self._deepest(name, likely), False
        return None

    def _fit(self, parts: tuple[str, ...], key: str) -> tuple[bool, int]:
        """(all folders of the name are the path's, folders of the key that end the name or -1)."""
        inside, whole = self._paths[key]
        folders = parts[:-1]
        for way in (inside[:-1], whole[:-1]):
            if not folders or way[-len(folders) :] == folders:
                return True, len(folders)
        ends = not inside[:-1] or folders[-len(inside[:-1]) :] == inside[:-1]
        return False, len(inside) - 1 if ends else -1

    def _deepest(self, name: str, keys: list[str]) -> str:
        depth = max(len(self._paths[key][0]) for key in keys)
        best = [key for key in keys if len(self._paths[key][0]) == depth]
        if len(best) > 1:
            raise UserError(
                f"{self.path}: '{quote(name)}' may be {list_some(best)}; name it by its path"
            )
        return best[0]


def list_some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(quote, names[:SHOWN])) + more


def _parts(name: str) -> tuple[str, ...]:
    """Folders and file name; as they look (NFC), whatever the system that wrote them."""
    path = unicodedata.normalize("NFC", name.strip()).replace("\\", "/")
    return tuple(part for part in path.split("/") if part not in ("", "."))


def _stem(last: str) -> str:
    base, suffix = os.path.splitext(last)
    return base if suffix[1:2].isalnum() else last
