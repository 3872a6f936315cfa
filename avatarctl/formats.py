"""Endings of the files that folders are searched for."""

from __future__ import annotations

# Pictures that `avatarctl.networks.images` reads; .heic and .heif need the extra of that name.
PICTURES = (
    ".avif",
    ".bmp",
    ".gif",
    ".heic",
    ".heif",
    ".jfif",
    ".jp2",
    ".jpe",
    ".jpeg",
    ".jpg",
    ".png",
    ".tga",
    ".tif",
    ".tiff",
    ".webp",
)

# ruff: noqa: SIM905 (a list of a hundred endings, one a line, would hide the rest)
# Sound files, and films whose sound is read; ffmpeg tells what is in them.
SOUND = tuple(
    (
        ".3ga .aa3 .aac .ac3 .aif .aifc .aiff .alac .amr .ape .au .awb .bwf .caf .dff .dsf .dts .eac3 .ec3 .flac .g722 "
        ".gsm .m4a .m4b .m4r .mka .mlp .mp1 .mp2 .mp3 .mpa .mpc .mpga .oga .ogg .oma .opus .qcp .ra .rf64 .shn .snd "
        ".sox .spx .tak .thd .tta .voc .vqf .w64 .wav .wave .weba .wma .wv "
    ).split()
)
FILMS = tuple(
    (
        ".3g2 .3gp .3gpp .asf .avi .dv .f4v .flv .m2t .m2ts .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .ogm "
        ".ogv .qt .rm .rmvb .ts .vob .webm .wmv .wtv .y4m "
    ).split()
)
RECORDINGS = frozenset((*SOUND, *FILMS))
# What needs no look to be told from a recording.
OTHERS = tuple(
    (
        ".7z .ass .avatarctl .bat .bz2 .cfg .conf .crdownload .csv .db .dll .doc .docx .download .exe .gz .html .ico "
        ".ini .iso .json .jsonl .lnk .lock .log .lrc .m3u .m3u8 .md .odt .onnx .part .partial .pdf .pls .ppt .pptx .psd "
        ".pt .pth .py .rar .rtf .safetensors .sh .srt .sub .svg .tar .textgrid .tmp .toml .torrent .tsv .txt .url .vtt "
        ".xls .xlsx .xml .yaml .yml .zip .zst "
    ).split()
)
NO_RECORDINGS = frozenset((*PICTURES, *OTHERS))
