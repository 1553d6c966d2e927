"""Running steps: child processes that end with the run. Knows no other room."""

from snac_pipeline.engine.child import ChildFailed, Event, die_with_parent, run_child

__all__ = ["ChildFailed", "Event", "die_with_parent", "run_child"]
