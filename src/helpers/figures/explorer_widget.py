"""The explorer in a live notebook: an anywidget whose tiles come over its own comm, with no server and no port."""

from typing import Any

import anywidget
import traitlets

from helpers.figures.explorer import read_asset, read_library
from helpers.figures.tileserver import TileServer

WRAPPED = """const OpenSeadragon = (function (module, exports, define) {{
{code}
return module.exports;
}}).call(window, {{exports: {{}}}});
"""


class ExplorerWidget(anywidget.AnyWidget):
    """Browser side of `helpers.figures.explore` in a live notebook.

    Parameters
    ----------
    payload : dict
        What `helpers.figures.explorer.Explorer` shows.
    server : TileServer
    """

    _esm = WRAPPED.format(code=read_library()) + read_asset("explorer.js") + read_asset("explorer_widget.js")
    _css = read_asset("explorer.css")
    payload = traitlets.Dict().tag(sync=True)

    def __init__(self, payload: dict[str, Any], server: TileServer) -> None:
        super().__init__(payload=payload)
        self._server = server
        self.on_msg(self._receive)

    def _receive(self, _: Any, content: Any, __: Any) -> None:
        self._server.submit(content, self.send)

    def close(self) -> None:
        """Close the comm and the slide."""
        super().close()
        self._server.close()
