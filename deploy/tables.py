"""Tables of the terminal whose cells stand as they are: names of classes, columns, files and parameters may hold brackets."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table


class Plain(Table):
    """A table whose texts are no markup; a cell with colours is a `rich.text.Text`."""

    def add_column(self, header: Any = "", *further: Any, **said: Any) -> None:
        """See `rich.table.Table.add_column`."""
        super().add_column(_plain(header), *further, **said)

    def add_row(self, *cells: Any, **said: Any) -> None:
        """See `rich.table.Table.add_row`."""
        super().add_row(*map(_plain, cells), **said)


def _plain(cell: Any) -> Any:
    return escape(cell) if isinstance(cell, str) else cell
