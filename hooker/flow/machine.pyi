from collections.abc import Sequence

from hooker.flow.states import Rule

def load(rules: Sequence[Rule]) -> None: ...
