"""Recordings whose headers are odd."""

import struct

import soundfile


def flac_of_unknown_length(path, wav):
    """The header's number of samples set to 0, as an encoder into a pipe leaves it."""
    soundfile.write(path, wav, 16000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"fLaC") + 8 + 13  # 4 low bits of the byte before, 4 bytes
    content[at] &= 0xF0
    content[at + 1 : at + 5] = bytes(4)
    path.write_bytes(content)


def wav_of_rate(path, wav, rate):
    """A header that says another sampling rate."""
    soundfile.write(path, wav, 16000)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 24, rate)
    path.write_bytes(content)
