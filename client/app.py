"""The institution's Flower app: hands requests to `client.institution`, and never lets an exception travel."""

from __future__ import annotations

import os
from pathlib import Path

import structlog
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.carriage import decode_request, encode_reply
from common.errors import ConfigError, DictPFLError
from common.protocol import Reply, Request, Status

SITES = "DICTPFL_SITES"
"""Environment variable with the folder of all institutions, where several share a machine (simulation)."""

app = ClientApp()
_log = structlog.get_logger(__name__)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one request of the coordinator; the reply is always a `Reply`, never an exception."""
    return Message(encode_reply(_answer(message, context)), reply_to=message)


def site_folder(context: Context) -> Path:
    """Return the institution's own folder, from its own settings: nothing that the coordinator sends has a say.

    The SuperNode's command line comes first (`--node-config 'site="..."'`), then DICTPFL_SITES and the partition
    number of a simulation. Raises `ConfigError` if there is neither.
    """
    site = context.node_config.get("site")
    if isinstance(site, str) and site:
        return Path(site)
    sites, partition = os.environ.get(SITES), context.node_config.get("partition-id")
    if not sites or type(partition) is not int:
        raise ConfigError(
            f"Expected site in the SuperNode's --node-config, or {SITES} and a partition-id; found neither."
        )
    return Path(sites) / f"institution-{partition:03d}"


def _answer(message: Message, context: Context) -> Reply:
    # Flower sends the text of an exception to the coordinator (FLOWER.md), and text may hold a path or a value of
    # the data. So whatever happens stays in the local log, and a bare code leaves.
    request: Request | None = None
    try:
        request = decode_request(message.content)
        # Not at the top: the driver of a simulation loads both apps into the coordinator's process, which must
        # stay without torch.
        from client.institution import open_institution

        return open_institution(site_folder(context)).handle(request)
    except DictPFLError as error:
        _log.warning("request refused", code=error.code, reason=str(error))
        code = error.code
    except Exception:  # noqa: BLE001  this is the place where exceptions end
        _log.exception("request failed")
        code = DictPFLError.code
    return Reply(Status.REFUSED, round=0 if request is None else request.round, position=0, code=code)
