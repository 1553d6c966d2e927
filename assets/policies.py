"""Who makes an asset anew when what it is made from changed: its policy, and the sensor that acts on it.

`auto`: the sensor `make_anew` does, as soon as Dagster shows the asset as stale or missing, after all that it is made
from and if the blocking checks of that passed; several corpora as one backfill. `ask`: someone in the UI, where it is
stale, or a job. `never`: only a run or a job that names it; the job `pipeline`, which is everything, leaves it out.
"""

import json
import logging
from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.asset_graph_view.entity_subset import EntitySubset
from dagster._core.definitions.data_version import (
    SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD,
    CachingStaleStatusResolver,
    StaleStatus,
)
from dagster._core.definitions.instigation_logger import InstigationLogger
from dagster._core.definitions.sensor_definition import SensorExecutionData

from assets.presentation import Definition
from snac_pipeline.files import value_digest
from snac_pipeline.settings import AutomationSettings, Policy, Settings

POLICY_TAG = "automation"
"""Of every asset: its policy. `tag:automation=ask` selects in the UI what waits there."""

MADE_TOGETHER = {"quarantine": "manifest"}
"""An asset that has the policy of another, as one step makes both."""


def governed(definitions: Iterable[Definition], settings: Settings) -> list[Definition]:
    """The definitions of assets with their policies, and code versions that are of this home: what lies in another one
    is of no use here, so that after a change of `home` everything is stale."""
    home = value_digest(str(settings.home.resolve()))[:8]

    def with_policy(spec: dg.AssetSpec) -> dg.AssetSpec:
        policy = policy_of(spec.key.to_user_string(), settings.automation)
        return spec.replace_attributes(
            code_version=f"{spec.code_version}-{home}",
            tags={**spec.tags, POLICY_TAG: policy},
            automation_condition=automatic() if policy == "auto" else None,
        )

    return [
        one.map_asset_specs(with_policy) if isinstance(one, dg.AssetsDefinition) and one.is_materializable else one
        for one in definitions
    ]


def policy_of(asset: str, options: AutomationSettings) -> Policy:
    """The policy of an asset that is made here."""
    policy: Policy = getattr(options.policies, MADE_TOGETHER.get(asset, asset))
    return policy


def automatic() -> dg.AutomationCondition[dg.AssetKey]:
    """The condition of assets with the policy `auto`.

    Blocking checks stop what follows in their own run only; so in the next one the condition has to ask for them.
    """
    condition = dg.AutomationCondition
    return (
        OutOfDate()
        & ~condition.in_progress()
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & condition.all_deps_blocking_checks_passed()
    )


def sensor(options: AutomationSettings) -> dg.AutomationConditionSensorDefinition:
    """`make_anew`: runs the assets whose policy is `auto`."""
    return _WithoutLogFiles(
        "make_anew",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=options.interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING if options.running else dg.DefaultSensorStatus.STOPPED,
        use_user_code_server=True,  # where OutOfDate is known
        description="Makes the assets anew whose policy (`automation.policies`) is auto and that are stale or missing.",
    )


class _WithoutLogFiles(dg.AutomationConditionSensorDefinition):
    """Dagster keeps what a tick logs in a file of its own, for ever: of this sensor 10 kB that say that it evaluated.
    Warnings and errors are printed as before; what was evaluated is in the UI."""

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        context._logger = InstigationLogger(level=logging.WARNING)  # of no file: it has no log_key
        return super().evaluate_tick(context)


class OutOfDate(dg.AutomationCondition[dg.AssetKey]):
    """True for what Dagster shows as stale or missing, once for every state of what it is made from.

    Where a run fails, or leaves stale what it made, the next one starts when something changes, or by hand; not with
    every tick. While something further up is about to be made anew, nothing is true. What was tried is in the cursor.
    """

    @property
    def description(self) -> str:
        return "stale or missing, and not tried yet from what there is now"

    def evaluate(self, context: dg.AutomationContext[dg.AssetKey]) -> dg.AutomationResult[dg.AssetKey]:
        before = json.loads(context.cursor) if context.cursor else {"states": {}, "tried": {}}
        requested = _names(context.get_previous_requested_subset(context.key))
        tried = before["tried"] | {name: before["states"][name] for name in requested & before["states"].keys()}
        states = _states(context)
        tried = {name: state for name, state in tried.items() if name in states}
        due = {name for name, state in states.items() if tried.get(name) != state}
        ancestors = context.asset_graph.get_ancestor_asset_keys(context.key)
        if any(_names(context.request_subsets_by_key.get(key)) for key in ancestors):
            due = set()
        cursor = json.dumps({"states": states, "tried": tried})
        return dg.AutomationResult(context, _subset(context, due), cursor=cursor)


WHOLE = ""
"""Stands for an asset without partitions where others have the names of theirs."""


def _states(context: dg.AutomationContext[dg.AssetKey]) -> dict[str, str]:
    """By partition, for those that are stale or missing: a digest of the code and of the versions it is made from."""
    graph, view, key = context.asset_graph, context.asset_graph_view, context.key
    resolver = CachingStaleStatusResolver(view.instance, graph, view)
    untold = _untold_changes(context)
    states = {}
    for name in _partitions(context, key):
        if untold or resolver.get_status(key, name or None) != StaleStatus.FRESH:
            versions = [
                (parent.to_user_string(), partition, resolver.get_current_data_version(parent, partition or None).value)
                for parent in sorted(graph.get(key).parent_keys)
                for partition in ([name] if name and graph.get(parent).is_partitioned else _partitions(context, parent))
            ]
            states[name] = value_digest([graph.get(key).code_version, versions])
    return states


def _untold_changes(context: dg.AutomationContext[dg.AssetKey]) -> bool:
    """Whether something was made since that Dagster does not compare: a hundred partitions and more of an asset, for
    one that has none."""
    graph, instance = context.asset_graph, context.asset_graph_view.instance
    many = [
        parent
        for parent in graph.get(context.key).parent_keys
        if len(_partitions(context, parent)) >= SKIP_PARTITION_DATA_VERSION_DEPENDENCY_THRESHOLD
    ]
    if context.partitions_def or not many:
        return False
    made, *newer = [instance.get_latest_materialization_event(key) for key in (context.key, *many)]
    return made is not None and any(event is not None and event.timestamp > made.timestamp for event in newer)


def _partitions(context: dg.AutomationContext[dg.AssetKey], key: dg.AssetKey) -> Sequence[str]:
    partitions = context.asset_graph.get(key).partitions_def
    return partitions.get_partition_keys() if partitions else [WHOLE]


def _names(subset: EntitySubset[dg.AssetKey] | None) -> set[str]:
    """The partitions of a subset of an asset's; {WHOLE} for an asset without."""
    if subset is None or subset.is_empty:
        return set()
    return set(subset.expensively_compute_partition_keys()) if subset.is_partitioned else {WHOLE}


def _subset(context: dg.AutomationContext[dg.AssetKey], names: set[str]) -> EntitySubset[dg.AssetKey]:
    if context.partitions_def is None:
        return context.candidate_subset if names else context.get_empty_subset()
    return context.candidate_subset.compute_intersection_with_partition_keys(names)
