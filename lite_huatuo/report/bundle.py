"""The plotting library as text: Vega, Vega-Lite and Vega-Embed, out of the vl-convert package."""

from __future__ import annotations

import functools

LICENCES = "Vega, Vega-Lite and Vega-Embed (BSD-3-Clause) with d3 (ISC)"


@functools.cache
def javascript() -> str:
    """Return the library as one script, which sets `window.vegaEmbed`. It takes some seconds to put together."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
