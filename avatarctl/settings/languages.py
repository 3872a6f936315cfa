"""Codes of languages (ISO 639) as people write them and as containers hold them."""

from __future__ import annotations

import re

# ISO 639-1 with ISO 639-2: the first two letters are the short code, the other three the long one.
_SHORT = """
aaaar ababk aeave afafr akaka amamh anarg arara asasm avava ayaym azaze babak bebel bgbul bibis bmbam bnben bobod
brbre bsbos cacat ceche chcha cocos crcre csces cuchu cvchv cycym dadan dedeu dvdiv dzdzo eeewe elell eneng eoepo
esspa etest eueus fafas ffful fifin fjfij fofao frfra fyfry gagle gdgla glglg gngrn guguj gvglv hahau heheb hihin
hohmo hrhrv hthat huhun hyhye hzher iaina idind ieile igibo iiiii ikipk ioido isisl itita iuiku jajpn jvjav kakat
kgkon kikik kjkua kkkaz klkal kmkhm knkan kokor krkau kskas kukur kvkom kwcor kykir lalat lbltz lglug lilim lnlin
lolao ltlit lulub lvlav mgmlg mhmah mimri mkmkd mlmal mnmon mrmar msmsa mtmlt mymya nanau nbnob ndnde nenep ngndo
nlnld nnnno nonor nrnbl nvnav nynya ococi ojoji omorm orori ososs papan pipli plpol pspus ptpor quque rmroh rnrun
roron rurus rwkin sasan scsrd sdsnd sesme sgsag shhbs sisin skslk slslv smsmo snsna sosom sqsqi srsrp ssssw stsot
susun svswe swswa tatam tetel tgtgk ththa titir tktuk tltgl tntsn toton trtur tstso tttat twtwi tytah uguig ukukr
ururd uzuzb veven vivie vovol wawln wowol xhxho yiyid yoyor zazha zhzho zuzul
"""
LONG_OF = {word[:2]: word[2:] for word in _SHORT.split()}
# Long codes that have a second form, which library catalogues and Matroska use.
BIBLIOGRAPHIC = {
    "bod": "tib",
    "ces": "cze",
    "cym": "wel",
    "deu": "ger",
    "ell": "gre",
    "eus": "baq",
    "fas": "per",
    "fra": "fre",
    "hye": "arm",
    "isl": "ice",
    "kat": "geo",
    "mkd": "mac",
    "mri": "mao",
    "msa": "may",
    "mya": "bur",
    "nld": "dut",
    "ron": "rum",
    "slk": "slo",
    "sqi": "alb",
    "zho": "chi",
}
EXPECTED = "LANGUAGE:FILE with an ISO 639 code such as de:talk.srt or deu:talk.srt (und: no language)"


def parse_subtitles(text: str) -> tuple[str, str]:
    """Return (language, file) of "de:talk.srt"; the language as its long code (deu). Raises ``ValueError`` for anything else."""
    code, colon, file = text.partition(":")
    code = code.strip().lower()
    if not colon or not file.strip():
        raise ValueError(f"got '{text}', expected {EXPECTED}")
    long = LONG_OF.get(code, code)
    if not re.fullmatch(r"[a-z]{3}", long):
        raise ValueError(f"got the language '{code}' in '{text}', expected {EXPECTED}")
    return {short: full for full, short in BIBLIOGRAPHIC.items()}.get(long, long), file


def language_in(muxer: str, code: str) -> str:
    """Return a long code (deu) as a container writes it: Matroska and WebM have the bibliographic form (ger)."""
    return BIBLIOGRAPHIC.get(code, code) if muxer in ("matroska", "webm") else code


def check_subtitles(text: str) -> str:
    """Return the text as it is; raises ``ValueError`` for what names no language and file."""
    parse_subtitles(text)
    return text
