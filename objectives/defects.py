"""Prompts of IFEval that are known to be defective.

The 74 of its 541 prompts whose text, arguments or instruction ids the authors of IFEval++ (arXiv 2512.14754,
github.com/jianshuod/IFEval-pp) edited by hand: prompts that contradict themselves, like "repeat this text", which has
commas, "and use no commas", and prompts that ask for something else than what is checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from objectives.score import Prompt

# Key in IFEval's file, and the beginning of the SHA-256 of the prompt's text there.
DEFECTIVE = {
    202: "878b3715c393", 296: "3d69c5416670", 337: "b68abaf3a3d0", 374: "06e1fb41da10", 1021: "0568c3aeee97",
    1051: "0635ea7812ec", 1107: "eeee4cf0dbfa", 1122: "05773a8469ae", 1132: "4410badd2e76", 1153: "4f1377945e48",
    1174: "8116c07e15ec", 1217: "6d45c0e10887", 1287: "fba7e8ce4c75", 1332: "8e44299e82c1", 1498: "e2be718740da",
    1516: "c9f68e95e977", 1535: "f3f24a88caa9", 1546: "6aa8ad06a674", 1571: "0f2c8cef4f6e", 1582: "cf9a6847afed",
    1591: "5db8b089644e", 1593: "c9d6a2134f52", 1627: "1d0297e542c8", 1645: "d43f207bb4ae", 1779: "4bfa16fe4f65",
    1813: "d5ec48ab6c1a", 1944: "3bb4403a94ac", 1954: "e7d5990bf3a7", 1964: "ec8f98e204aa", 1980: "12471075ee37",
    1996: "8fdc277b6623", 1999: "d457716d59c1", 2063: "31f29acc538b", 2078: "24cdcadb05f0", 2100: "1612b33a6448",
    2118: "445c9057f48c", 2180: "24514b95b723", 2216: "78b1e1f438c8", 2309: "33b7a311b8b5", 2337: "554f02eca23b",
    2380: "8bcc7b91772a", 2381: "8aff07a7474d", 2391: "0a46ce4b6d2d", 2392: "1e76aebef15d", 2531: "525daa163b83",
    2563: "4a78cab1db0f", 2653: "b843adadf52a", 2713: "f68cb42032f5", 2739: "04bc479805a8", 2759: "790cab5bff26",
    2832: "6886f083d529", 2918: "a3facb548607", 2943: "8e4854a4861e", 3025: "b83415da9b90", 3041: "0e4dc56ec9b2",
    3063: "08dede23c724", 3069: "fb2f84bfb7b7", 3071: "522a5bacf8be", 3186: "faf548bcc586", 3276: "88f721756ab8",
    3287: "61b1b7085376", 3305: "4f81494760af", 3311: "2946bdd7398a", 3369: "5fb4026179e4", 3371: "adb330c9acf0",
    3380: "a9621d1a7c90", 3434: "2999dcfd22bd", 3456: "1d8a31b0b15d", 3505: "33a5f8d8cdf8", 3549: "ae155d93f37b",
    3617: "9e9e791bf5ea", 3633: "9d9ff3dff045", 3703: "23bf64224e97", 3718: "fdca83b6cde6",
}  # fmt: skip


def defective(prompts: Iterable[Prompt]) -> frozenset[int]:
    """The keys of those that are known to be defective: a prompt of another file with such a key is not."""
    return frozenset(p.key for p in prompts if DEFECTIVE.get(p.key) == _hash(p.prompt))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
