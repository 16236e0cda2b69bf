"""Augmentation of raw training examples (texts or waveforms) before they are encoded."""

from typing import TYPE_CHECKING

from src.config.schema.regularization import Regularization
from src.core.errors import UserError

if TYPE_CHECKING:
    from src.regularization.audio_augmentation import AudioAugmentation
    from src.regularization.text_augmentation import LoadTranslator, TextAugmentation

EXAMPLE_KINDS = {"audio": "waveforms", "text": "texts"}


def example_augmentation(
    knobs: Regularization, raw: str | None, load_translator: "LoadTranslator"
) -> "AudioAugmentation | TextAugmentation | None":
    """Return the augmentation of raw training examples, or None if none is configured.

    Args:
        knobs: the settings of regularization.
        raw: kind of the examples: ``audio``, ``text``, or None for anything else.
        load_translator: loads a run or checkpoint that translates, for back-translation.

    Raises:
        UserError: if the examples are of another kind, which may only be known after they are loaded, or if a library, a
            WordNet or a run is missing.
    """
    keys_of_kind = knobs.enabled_example_augmentation()
    for kind, keys in keys_of_kind.items():
        if keys and kind != raw:
            raise UserError(f"{keys[0]} changes {EXAMPLE_KINDS[kind]}, and these data have none.")
    if keys_of_kind["audio"]:
        from src.regularization.audio_augmentation import AudioAugmentation

        return AudioAugmentation(knobs.audio)
    if keys_of_kind["text"]:
        from src.regularization.text_augmentation import TextAugmentation

        return TextAugmentation(knobs.synonyms, knobs.back_translation, load_translator)
    return None
