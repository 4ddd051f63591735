"""The synthetic speakers: what is fixed in a voice, and what varies within it.

How hard the demo corpus is depends on the constants at the top: the ``SPREAD_*``
say how far speakers lie apart, the ``WITHIN_*`` how much one speaker varies.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import yaml

SENTENCES: dict[str, list[str]] = yaml.safe_load(
    Path(__file__).with_name("sentences.yaml").read_text(encoding="utf-8")
)
BATCH = 10  # speakers that one process makes
LOW = (
    "Alex Andy Denis Diogo Gene Henrique Hugo Lee Marco Michael Mike Reed RicishayMax "
    "adam antonio boris david ed edward iven3 john kaukovalta klatt4 m1 m2 m3 m4 m5 "
    "m6 m7 m8 max michel miguel norbert pablo pedro robert sandro victor"
).split()
HIGH = (
    "Alicia Andrea Annie Nguyen anika aunty belinda f1 f2 f3 f4 f5 grandma linda "
    "shelby steph steph2"
).split()
ACCENTS = {
    "en": "en-us en en-gb-scotland en-gb-x-rp en-029 en-gb-x-gbclan".split(),
    "de": ["de"],
    "fr": ["fr", "fr-be", "fr-ch"],
    "es": ["es", "es-419"],
    "it": ["it"],
}
LANGUAGE_SHARE = {"en": 5, "de": 2, "fr": 2, "es": 2, "it": 1}

SPREAD_TRACT = 0.13
SPREAD_PITCH = 22
SPREAD_RANGE = (25, 75)
SPREAD_RATE = (145, 200)
SPREAD_COLOUR = 5.0

WITHIN_TRACT = 0.02
WITHIN_PITCH = 7.0
WITHIN_RANGE = 14.0
WITHIN_RATE = 16.0
WITHIN_COLOUR = 2.0


@dataclass(frozen=True)
class Speaker:
    """What never changes in a voice.

    ``gender`` is the register of the eSpeak ``variant`` and ``accent`` eSpeak's
    language voice. Formants are scaled by ``tract`` (1 = the variant's own). ``pitch``,
    ``pitch_range`` and ``rate`` are eSpeak's settings; ``colour`` is the gain in dB of
    four bands, the voice's timbre.
    """

    name: str
    gender: str
    language: str
    accent: str
    variant: str
    tract: float
    pitch: int
    pitch_range: int
    rate: int
    colour: tuple[float, ...]

    @property
    def voice(self) -> str:
        """eSpeak's name of it."""
        return f"{self.accent}+{self.variant}"

    def file_name(self, index: int) -> str:
        """The posix path of an utterance, relative to the corpus."""
        return f"audio/{self.name}/{self.name}-{index:02d}.flac"


@dataclass(frozen=True)
class Saying:
    """One sentence as a speaker happens to say it.

    Settings as the speaker's, varied; pitch and rate are corrected for the tract,
    whose scaling would change them.
    """

    text: str
    tract: float
    pitch: int
    pitch_range: int
    rate: int
    colour: tuple[float, ...]


def make_speakers(count: int, seed: int) -> list[Speaker]:
    """Voices of which no two are alike.

    Half are low, half high. Speakers who share a variant (there are fewer variants
    than speakers) are set apart by vocal tract and pitch, drawn from strata.
    """
    rng = random.Random(f"{seed}/speakers")
    languages = [la for la, share in LANGUAGE_SHARE.items() for _ in range(share)]
    speakers: list[Speaker] = []
    for gender, variants, number in (
        ("f", HIGH, count // 2),
        ("m", LOW, count - count // 2),
    ):
        order = rng.sample(variants, len(variants))
        rounds = -(-number // len(order))
        strata = {variant: rng.sample(range(rounds), rounds) for variant in order}
        for index in range(number):
            variant = order[index % len(order)]
            stratum = strata[variant][index // len(order)]
            place = (stratum + rng.random()) / rounds
            language = rng.choice(languages)
            speakers.append(
                Speaker(
                    name=f"syn-{len(speakers):03d}",
                    gender=gender,
                    language=language,
                    accent=rng.choice(ACCENTS[language]),
                    variant=variant,
                    tract=round(1 + SPREAD_TRACT * (2 * place - 1), 4),
                    pitch=round(50 + SPREAD_PITCH * rng.uniform(-1, 1)),
                    pitch_range=rng.randint(*SPREAD_RANGE),
                    rate=rng.randint(*SPREAD_RATE),
                    colour=tuple(
                        round(SPREAD_COLOUR * rng.uniform(-1, 1), 2) for _ in range(4)
                    ),
                )
            )
    return speakers


def make_sayings(speaker: Speaker, count: int, seed: int) -> list[Saying]:
    """So many different sentences, each said a little differently."""
    rng = random.Random(f"{seed}/{speaker.name}/sayings")
    texts = rng.sample(SENTENCES[speaker.language], count)
    return [
        Saying(
            text,
            tract := speaker.tract * (1 + WITHIN_TRACT * _deviation(rng)),
            _clip(speaker.pitch + WITHIN_PITCH * _deviation(rng), 0, 99),
            _clip(speaker.pitch_range + WITHIN_RANGE * _deviation(rng), 0, 99),
            _clip((speaker.rate + WITHIN_RATE * _deviation(rng)) / tract, 90, 300),
            tuple(c + WITHIN_COLOUR * _deviation(rng) for c in speaker.colour),
        )
        for text in texts
    ]


def _deviation(rng: random.Random) -> float:
    """A standard normal number, at most 2 away from 0."""
    return max(-2.0, min(2.0, rng.gauss(0, 1)))


def _clip(value: float, low: int, high: int) -> int:
    return int(max(low, min(high, round(value))))
