"""The planner: the best assemblies of neighbourhoods under budgets."""

from stillhouse.search.assembly.planner.assemblies import Assembly, assemblies
from stillhouse.search.assembly.planner.budget import Budget
from stillhouse.search.assembly.planner.front import pareto_front
from stillhouse.search.assembly.planner.graph import DisconnectedGraph, Edge
from stillhouse.search.assembly.planner.infeasible import InfeasibleBudgets

__all__ = [
    "Assembly",
    "Budget",
    "DisconnectedGraph",
    "Edge",
    "InfeasibleBudgets",
    "assemblies",
    "pareto_front",
]
