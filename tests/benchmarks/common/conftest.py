from tests.trainer.conftest import one_rank

__all__ = ["one_rank"]
