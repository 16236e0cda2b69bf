"""From the knobs to what happens to a raw training example, a text or a waveform, before it becomes numbers."""

from typing import TYPE_CHECKING

from src.config.schema.regularization import Regularization
from src.core.errors import UserError

if TYPE_CHECKING:
    from src.regularization.audio_augmentation import AudioAugmentation
    from src.regularization.text_augmentation import LoadTranslator, TextAugmentation

WORKS_ON = {"audio": "waveforms", "text": "texts"}


def example_augmentation(
    knobs: Regularization, raw: str | None, load_translator: "LoadTranslator"
) -> "AudioAugmentation | TextAugmentation | None":
    """Return the augmentation of raw training examples, or None where none is asked for.

    Args:
        knobs: of regularization.
        raw: what the examples are: ``audio``, ``text``, or None for anything else.
        load_translator: loads a run or checkpoint that translates, for back-translation.

    Raises:
        UserError: if the examples are of another kind, where that could not be known before they were loaded, or if a
            library, a WordNet or a run is missing.
    """
    asked = knobs.of_examples()
    for kind, keys in asked.items():
        if keys and kind != raw:
            raise UserError(f"{keys[0]} changes {WORKS_ON[kind]}, and these data have none.")
    if asked["audio"]:
        from src.regularization.audio_augmentation import AudioAugmentation

        return AudioAugmentation(knobs.audio)
    if asked["text"]:
        from src.regularization.text_augmentation import TextAugmentation

        return TextAugmentation(knobs.synonyms, knobs.back_translation, load_translator)
    return None
