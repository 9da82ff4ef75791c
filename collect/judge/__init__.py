"""A judge that says whether two solutions are distinct: asked over HTTP, within limits, or told without one."""
