"""Whether Weights & Biases can be reached: the key and the server. wandb is imported when it is asked."""

import logging
import socket
from urllib.parse import urlparse

log = logging.getLogger(__name__)


def key_is_configured() -> bool:
    """Whether runs can go online without a prompt. Looks where wandb looks: WANDB_API_KEY, an identity token, netrc,
    wandb's own settings; a key in a wrong form is none.

    Raises:
        ImportError: without wandb.
    """
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    try:
        host = wandb_setup.singleton().settings.base_url
        found = wbauth.authenticate_session(host=host, source="gridlight", prompt=False, update_session=False)
    except Exception as error:
        log.warning("Weights & Biases: the key cannot be used: %s", first_line(error))
        return False
    return found is not None


def why_unreachable() -> str | None:
    """Return why the server does not answer at all; None if something answers."""
    from wandb.sdk import wandb_setup

    address = urlparse(str(wandb_setup.singleton().settings.base_url))
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=5):
            return None
    except OSError as error:
        return f"{address.geturl()} cannot be reached: {error.strerror or error}"


def first_line(error: Exception) -> str:
    """Return the first line of an error, else its name."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
