"""The synthetic speakers: what is fixed in a voice, and what varies within it.

How hard the demo corpus is depends on the constants at the top: the ``SPREAD_*``
say how far speakers lie apart, the ``WITHIN_*`` how much one speaker wavers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sb_margins.data.synthetic.sentences import SENTENCES

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

    Arguments
    ---------
    name : str
    gender : str
        ``m`` or ``f``: the register of the eSpeak variant.
    language : str
        Of the sentences.
    accent : str
        eSpeak's language voice.
    variant : str
        eSpeak's voice variant.
    tract : float
        Formants are scaled by it (1 = the variant's own).
    pitch, pitch_range, rate : int
        eSpeak's settings.
    colour : tuple of float
        Gain in dB of four bands: the voice's timbre.

    Example
    -------
    >>> Speaker("s1", "f", "en", "en-us", "f3", 1.0, 50, 50, 170, (0, 0, 0, 0)).voice
    'en-us+f3'
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


@dataclass(frozen=True)
class Saying:
    """One sentence as a speaker happens to say it.

    Arguments
    ---------
    text : str
    tract : float
    pitch, pitch_range, rate : int
        The speaker's, wavering; pitch and rate are corrected for the tract, whose
        scaling would change them.
    colour : tuple of float

    Example
    -------
    >>> Saying("Hello.", 1.0, 50, 50, 170, (0.0, 0.0, 0.0, 0.0)).text
    'Hello.'
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

    Arguments
    ---------
    count : int
    seed : int

    Returns
    -------
    list of Speaker

    Example
    -------
    >>> voices = make_speakers(120, seed=1)
    >>> len({(v.voice, v.tract, v.pitch, v.pitch_range, v.rate) for v in voices})
    120
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
    """Different sentences, each said a little differently.

    Arguments
    ---------
    speaker : Speaker
    count : int
        At most as many as the language has sentences (20 or more).
    seed : int

    Returns
    -------
    list of Saying

    Example
    -------
    >>> sayings = make_sayings(make_speakers(12, 1)[0], 10, seed=1)
    >>> len({s.text for s in sayings})
    10
    """
    rng = random.Random(f"{seed}/{speaker.name}/sayings")
    texts = rng.sample(SENTENCES[speaker.language], count)
    return [
        Saying(
            text,
            tract := speaker.tract * (1 + WITHIN_TRACT * _waver(rng)),
            _clip(speaker.pitch + WITHIN_PITCH * _waver(rng), 0, 99),
            _clip(speaker.pitch_range + WITHIN_RANGE * _waver(rng), 0, 99),
            _clip((speaker.rate + WITHIN_RATE * _waver(rng)) / tract, 90, 300),
            tuple(c + WITHIN_COLOUR * _waver(rng) for c in speaker.colour),
        )
        for text in texts
    ]


def _waver(rng: random.Random) -> float:
    """A standard normal number, at most two from nought."""
    return max(-2.0, min(2.0, rng.gauss(0, 1)))


def _clip(value: float, low: int, high: int) -> int:
    return int(max(low, min(high, round(value))))
