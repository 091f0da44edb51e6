"""Flower app of an institution: hands requests to `dictpfl.client.institution`, and never lets an exception travel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from dictpfl.client.memory.diary import Diary
from dictpfl.client.messages import decode_request, encode_reply
from dictpfl.common.errors import ConfigError, DictPFLError
from dictpfl.common.messages.protocol import Reply, Request, Status

if TYPE_CHECKING:
    from dictpfl.client.institution import Institution

INSTITUTIONS = "DICTPFL_INSTITUTIONS"
"""Name of the environment variable with the folder of all institutions, where several share a machine (simulation)."""

_log = structlog.get_logger(__name__)


def app_at(institutions: str = "") -> ClientApp:
    """Make the app.

    Args:
        institutions: folder of all institutions, where a simulation has them at a place that no worker's environment says. It travels with the
            app: Flower's simulation takes a Ray cluster that runs already, whose workers began in another environment.
    """
    made = ClientApp()

    @made.train()
    def train(message: Message, context: Context) -> Message:
        """Answer one request of the coordinator; the reply is always a `Reply`, never an exception."""
        return Message(encode_reply(_answer(message, context, institutions)), reply_to=message)

    return made


app = app_at()


def institution_folder(context: Context, institutions: str = "") -> Path:
    """Find the institution's own folder by its own settings: nothing that the coordinator sends has a say.

    The SuperNode's command line comes first (`--node-config 'institution="..."'`), then the folder that the
    app was made with or DICTPFL_INSTITUTIONS, and the partition number of a simulation. Raises `ConfigError` if there is neither.
    """
    institution = context.node_config.get("institution")
    if isinstance(institution, str) and institution:
        return Path(institution)
    institutions, partition = institutions or os.environ.get(INSTITUTIONS, ""), context.node_config.get("partition-id")
    if not institutions or type(partition) is not int:
        raise ConfigError(
            f"Expected institution in the SuperNode's --node-config, or {INSTITUTIONS} and a partition-id; found neither."
        )
    return Path(institutions) / f"institution-{partition:03d}"


def _opened(folder: Path, number: int) -> Institution:
    """Open the institution of a folder; note in its diary why it cannot be opened, as it notes itself why it cannot answer."""
    # Not at the top: the driver of a simulation loads both apps into the coordinator's process, which must
    # stay without torch.
    from dictpfl.client.institution import open_institution

    try:
        return open_institution(folder)
    except Exception as error:
        Diary(folder, folder.name).failed(number, error)
        raise


def _answer(message: Message, context: Context, institutions: str) -> Reply:
    # Flower sends the text of an exception to the coordinator (decision 0007), and text may hold a path or a value of
    # the data. So whatever happens stays in the local log, and a bare code leaves.
    request: Request | None = None
    try:
        request = decode_request(message.content)
        return _opened(institution_folder(context, institutions), request.round).handle(request)
    except DictPFLError as error:
        _log.warning("request refused", code=error.code, reason=str(error))
        code = error.code
    except Exception:  # noqa: BLE001  this is the place where exceptions end
        _log.exception("request failed")
        code = DictPFLError.code
    return Reply(Status.REFUSED, round=0 if request is None else request.round, position=0, code=code)
