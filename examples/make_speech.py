"""Makes `examples/speech/`: 24 espeak-ng voices x 5 utterances of everyday Levantine Arabic and English.

In: espeak-ng 1.51 on the PATH. Out: `<out>/spkNN/spkNN_M.flac` (mono, 16 bit, 22050 Hz) and `<out>/metadata.csv`.
Running it again gives the same samples, and with the same libsndfile the same bytes.
"""

import argparse
import csv
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

METADATA = ("path", "speaker", "language", "text", "voice", "pitch", "speed", "level_db")
PER_SPEAKER = 5
# Nobody says every sentence at one pitch and pace: each utterance of a speaker departs a little from the speaker's own.
PITCH_OFFSETS = (0, 4, -3, 2, -5)  # espeak units of 0..99
SPEED_FACTORS = (1.0, 0.94, 1.06, 1.03, 0.97)
SILENCE_MS = ((60, 120), (110, 80), (40, 200), (150, 100), (80, 160))  # before, after


@dataclass(frozen=True)
class Speaker:
    name: str
    variant: str  # espeak-ng voice variant: vocal tract and source
    english_voice: str  # the accent of the speaker's English
    english: int  # how many of the five utterances are English
    pitch: int  # espeak -p, 0..99
    speed: int  # espeak -s, words per minute
    level_db: float  # RMS of what is spoken, dBFS


SPEAKERS = [
    Speaker("spk01", "f2", "en-us", 0, 74, 192, -31.0),
    Speaker("spk02", "m3", "en-us", 0, 50, 200, -30.0),
    Speaker("spk03", "Annie", "en-gb", 2, 48, 206, -32.0),
    Speaker("spk04", "gustave", "en-us", 0, 30, 204, -31.0),
    Speaker("spk05", "f4", "en-gb-x-rp", 5, 50, 212, -33.0),
    Speaker("spk06", "m7", "en-us", 0, 62, 218, -29.0),
    Speaker("spk07", "steph", "en-us", 0, 66, 204, -32.0),
    Speaker("spk08", "grandpa", "en-us", 0, 36, 211, -30.0),
    Speaker("spk09", "Andrea", "en-us-nyc", 3, 50, 216, -31.0),
    Speaker("spk10", "m1", "en-gb-scotland", 5, 74, 206, -31.0),
    Speaker("spk11", "f5", "en-us", 0, 78, 222, -33.0),
    Speaker("spk12", "robert", "en-us", 0, 10, 190, -29.0),
    Speaker("spk13", "linda", "en-us", 3, 22, 200, -30.0),
    Speaker("spk14", "klatt5", "en-us", 0, 66, 212, -32.0),
    Speaker("spk15", "grandma", "en-us", 0, 44, 188, -31.0),
    Speaker("spk16", "Marco", "en-029", 2, 40, 259, -30.0),
    Speaker("spk17", "f1", "en-us", 0, 40, 198, -32.0),
    Speaker("spk18", "belinda", "en-us", 5, 66, 218, -31.0),
    Speaker("spk19", "m8", "en-us", 0, 60, 207, -31.0),
    Speaker("spk20", "anika", "en-gb", 2, 60, 225, -33.0),
    Speaker("spk21", "victor", "en-us", 0, 74, 204, -29.0),
    Speaker("spk22", "f3", "en-us", 0, 88, 218, -32.0),
    Speaker("spk23", "david", "en-gb-x-gbclan", 3, 94, 214, -30.0),
    Speaker("spk24", "m2", "en-us", 0, 80, 229, -31.0),
]

# Levantine as it is spoken, with vowel marks: without them espeak-ng reads bare consonants.
ARABIC = """
شُو بِدَّك تَاكُل اليُوم؟
هَلَّأ رَايِح عَالسُّوق، بَدِّي جِيب خُضْرَة.
لَيش هَيك عَم تِحْكِي مَعِي؟
بُكْرَا الطَّقِس كْتِير مْنِيح، مْنِطْلَع عَالجَبَل.
وَين حَطَّيت المَفَاتِيح؟
كِيفَك؟ شُو أَخْبَارَك؟
مَا بَعْرِف لَيش البَاص اتْأَخَّر اليُوم هَيك.
بَدِّي فِنْجَان قَهْوِة بَلَا سُكَّر، إِذَا بِتْرِيد.
السِّتّ الكِبِيرِة سَاكْنِة بِالطَّابِق التَّالِت.
خَلَص، مَاشِي الحَال.
مْبَارِح سْهِرْنَا عِنْد بَيت خَالِي.
الوْلَاد عَم يِلْعَبُوا بِالحَارَة مِن الصُّبْح.
قَدَّيش سِعْر كِيلُو البَنَدُورَة؟
غَالِي كْتِير! مَا فِي أَرْخَص مِن هَيك؟
بَعْدَك نَايِم؟ السَّاعَة صَارِت عَشْرَة!
إِمِّي عِمْلِت مَحْشِي، والكِلّ أَكَل وشِبِع.
طْلَعْت بَكِّير، بَس الطَّرِيق كَان زَحْمِة.
شُو رَأْيَك نْرُوح عَالبَحِر نهَار الجُمْعَة؟
مَا تِنْسَى تِسْكِير البَاب وَرَاك.
جَارْنَا أَبُو سَامِي قَال إِنُّو المَيّ مَقْطُوعَة مِن مْبَارِح.
يَلَّا، تْأَخَّرْنَا!
هَاد الكْتَاب حِلُو، قْرِيتُو مَرْتَين.
أُخْتِي الصّْغِيرِة بِتْحِبّ تِرْسُم بْيُوت.
فِيك تْسَاعِدْنِي شْوَيّ؟ هَالشَّنْطَة تْقِيلِة.
الدِّكْتُور قَال لَازِم إِرْتَاح وإِشْرَب مَيّ كْتِير.
لَسَّا مَا خَلَّصْت شِغْلِي.
عَطِينِي رَقَمَك، وبَحْكِي مَعَك المَسَا.
عَم تِشْتِي، خُود مَعَك شَمْسِيِّة.
مِين هَاد الزَّلَمِة اللِّي وَاقِف عِنْد البَاب؟
كِلّ يُوم بِمْشِي نُصّ سَاعَة عَالكُورْنِيش.
وَاللَّه اشْتَقْنَالَك يَا زَلَمِة.
رَح إِسْتَنَّاك عِنْد مَوْقَف البَاص جَنْب الفُرْن.
تِيتَا كَانِت تِحْكِيلْنَا قُصَص بِلَيَالِي الشِّتِي.
هُوِّي بْيِشْتِغِل نَجَّار، وإِيدُو كْتِير شَاطْرَة.
هَيدَا مُو إِلِي، هَيدَا لَأَخِي.
لَيش مَا بْتِجِي تِتْعَشَّى مَعْنَا اللَّيلِة؟
الإِنْتِرْنِت بَطِيء، مَا قْدِرْت إِبْعَت الصُّوَر.
صَبَاح الخَير يَا جَار!
بِالصَّيف مْنِطْلَع عَالضَّيعَة.
اِبْنِي نِجِح، وجِبْنَالُو بِسْكْلَيت جْدِيد.
شُو عَم تَعْمَل هُون لَحَالَك؟
هَلَّأ بِالزَّبْط كِنْت عَم فَكِّر فِيك.
الخُبْز طَازَة، لَسَّا طَالِع مِن الفُرْن.
مَا عَاد فِيِّي، تْعِبْت مِن الشِّغْل.
إِذَا بِتْرُوح مِن هُون، بْتُوصَل أَسْرَع.
تْفَضَّلُوا، الأَكِل جَاهِز.
بَدْنَا نْغَيِّر لُون الحَيطَان قَبِل العِيد.
خَالْتِي سَافَرِت عَ كَنَدَا مِن خَمْس سْنِين.
هَالقَمِيص ضَيِّق عْلَيِّي، فِي مِنُّو أَكْبَر؟
نِسِيت المُوبَايل بِالبَيت مَرَّة تَانْيِة.
أَيمْتَا رَح تِرْجَع؟
القُطَّة نَايْمِة، والكَلِب عَم يِنْبَح بَرَّا، وأَنَا مَا فِيِّي نَام مِن هَالصَّوت، وبُكْرَا عِنْدِي شِغْل.
الحُمُّص بَدُّو شْوَيِّة طْحِينَة ولَيمُون.
مَا حَدَا بْيِعْرِف شُو صَار بَعْدَين.
اِشْتَرَيت بَنْطَلُون أَزْرَق مِن السُّوق القَدِيم.
الكَهْرَبَا بْتِيجِي سَاعْتَين وبْتِنْقَطِع.
عَن جَدّ؟ مَا صَدَّقْت!
جِدِّي زَرَع شَجَرِة زَيتُون قِدَّام البَيت.
بِتْحِبّ الشَّاي مَع نَعْنَع وَلَّا بَلَا؟
الصَّيدَلِيِّة سَكَّرِت، فِي غَيرهَا آخِر الشَّارِع.
مَا تِزْعَل، كِلّ شِي بْيِنْحَلّ.
نْزِلْنَا مِن السِّرْفِيس بِسَاحِة البَلَد.
العُرْس بُكْرَا، ولَسَّا مَا جَهَّزْنَا شِي.
بْتِسْمَح تْوَطِّي الصَّوت شْوَيّ؟
مِن وَين جَايِب هَالتُّفَّاح الطَّيِّب؟
شَغِّل المُكَيِّف، مِتْنَا مِن الشُّوب!
كَان بَدِّي إِدْرُس هَنْدَسِة، بَس دَرَسْت مُوسِيقَى.
هُنِّي سَاكْنِين قَرِيب مِن المَطَار.
سَلِّملِي عَ أَهْلَك كْتِير.
رَاحِت السِّكْرَة وإِجِت الفِكْرَة، مِتِل مَا بِيقُولُوا.
التَّلْج غَطَّى الطَّرِيق، ومَا قْدِرْنَا نِطْلَع.
طَيِّب، مِتِل مَا بَدَّك.
فِي وَاحَد اتَّصَل فِيك الصُّبْح، ورَح يِرْجَع يِحْكِي.
رَفِيقِي بِيدِقّ عَالعُود مِن زَمَان.
وَين كِنْتُوا مْبَارِح بِاللَّيل؟
اِنْتِبِه، الصَّحِن سُخُن!
بَعِد الغَدَا مْنِشْرَب قَهْوِة عَالبَلْكُون.
الحَلَّاق فَاتِح اليُوم لِلسَّاعَة تْمَانِة.
مَا بَدِّي شِي، بَس قْعُود حَدِّي شْوَيّ.
هَالمُسَلْسَل طَوِيل كْتِير، بَس حِلُو.
كِيف بُوصَل عَ مَحَطِّة القِطَار؟
دُغْرِي، وبَعْدَين عَالشّْمَال عِنْد الإِشَارَة.
فَرَّطْنَا الزَّيتُون كِلّ العَيلِة سَوَا، وأَخَدْنَاه عَالمَعْصَرَة.
إِيدِي عَم تُوجَعْنِي مِن مْبَارِح.
بِكَفِّي، شْبِعْت وَاللَّه!
الأُسْتَاذ شَرَح الدَّرْس مَرْتَين، ومَا فْهِمْت شِي.
جِبْلِي مَعَك رَبْطِة خُبْز وعِلْبِة لَبَن.
عِيد مِيلَادُو الجُمْعَة الجَايِة، شُو مِنْجِبْلُو؟
لَا تِسْتَعْجِل، فِي وَقِت.
البَيت اللِّي عَالزَّاوْيِة إِلُو بَاب أَخْضَر.
"""

ENGLISH = """
Could you leave the window open tonight?
My brother fixed the old radio, and now it only plays one station.
Thank you, that is very kind.
The shop on the corner sells fresh bread until seven.
She missed the bus twice this week, so today she decided to walk.
Where did you put my keys?
It rained all morning, but the garden needed it.
We are having lentil soup and a big green salad.
Please speak a little slower, I am still learning.
The children built a tower of boxes and named it after the cat.
Just a minute, I will call him.
Nobody told me that the meeting had moved to Thursday.
There is a small boat tied to the bridge.
How much sugar do you take in your coffee?
I would rather stay home and read than sit in traffic for an hour.
The train to the coast leaves from platform nine.
He laughed so loudly that the whole room turned around.
Turn left after the bank.
Our neighbour grows tomatoes, mint and three kinds of peppers.
Have you seen the moon tonight?
These shoes are too tight, could I try a larger size?
The doctor said to rest, drink water and come back on Monday.
Sorry, I forgot the milk.
Every summer my grandmother told the same story, and we loved it each time.
Could we have the bill, please?
A thick fog covered the valley just before sunrise.
You can borrow my umbrella, but please bring it back.
The battery lasts about six hours on a good day.
They painted the kitchen yellow and the hallway blue.
Good morning, is anybody home?
"""


def speak(text: str, voice: str, pitch: int, speed: int) -> tuple[np.ndarray, int]:
    """What espeak-ng says, as float samples in [-1, 1), without the silence around it, and the rate in Hz."""
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "said.wav"
        # -a 40: at the default amplitude of 100 the klatt voices clip inside espeak-ng.
        settings = ["-v", voice, "-p", str(pitch), "-s", str(speed), "-a", "40", "-b", "1"]
        subprocess.run(["espeak-ng", *settings, "-w", str(wav), "--stdin"], input=text.encode(), check=True)
        samples, sample_rate = sf.read(wav)
    loud = np.flatnonzero(np.abs(samples) > 5e-4)
    return samples[loud[0] : loud[-1] + 1], sample_rate


def utterances() -> Iterator[tuple[Speaker, int, str, str]]:
    """(speaker, take, language, text) for the whole corpus; every sentence is said once, English after Arabic."""
    arabic, english = iter(ARABIC.strip().splitlines()), iter(ENGLISH.strip().splitlines())
    for speaker in SPEAKERS:
        for take in range(PER_SPEAKER):
            is_english = take >= PER_SPEAKER - speaker.english
            yield speaker, take, "en" if is_english else "ar", next(english if is_english else arabic)


def make(out: Path, only: set[str] | None = None) -> None:
    """Writes the corpus, or only the speakers named in `only`, under `out`."""
    rows = []
    for speaker, take, language, text in utterances():
        if only and speaker.name not in only:
            continue
        voice = f"{speaker.english_voice if language == 'en' else 'ar'}+{speaker.variant}"
        pitch, speed = speaker.pitch + PITCH_OFFSETS[take], round(speaker.speed * SPEED_FACTORS[take])
        samples, sample_rate = speak(text, voice, pitch, speed)
        samples *= 10 ** (speaker.level_db / 20) / np.sqrt(np.mean(samples**2))
        before, after = (ms * sample_rate // 1000 for ms in SILENCE_MS[take])
        path = Path(speaker.name, f"{speaker.name}_{take + 1}.flac")
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        sf.write(out / path, np.pad(samples, (before, after)), sample_rate, subtype="PCM_16", compression_level=1.0)
        rows.append((path.as_posix(), speaker.name, language, text, voice, pitch, speed, speaker.level_db))
    with open(out / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([METADATA, *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the example speech corpus with espeak-ng.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "speech", help="default: examples/speech")
    out = parser.parse_args().out
    if shutil.which("espeak-ng") is None:
        parser.error("espeak-ng is not on the PATH; Debian and Ubuntu: apt install espeak-ng")
    make(out)
