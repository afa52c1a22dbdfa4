"""What a layout says of its modules."""

from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec


def test_the_modules_of_a_changed_copy_are_its_own() -> None:
    layout = Layout(
        metadata=[],
        tensors=[
            TensorSpec(key="a", dtype=DType.F32, shape=[2, 3]),
            TensorSpec(key="b", dtype=DType.F32, shape=[5, 2]),
        ],
        factors=[FactorSpec(module="m", a=0, b=1, form=Form.LINEAR, experts=1)],
    )
    assert [(shape.rank, shape.out, shape.in_) for shape in layout.modules()] == [(2, 5, 3)]
    wider = TensorSpec(key="b", dtype=DType.F32, shape=[7, 2])
    changed = layout.model_copy(update={"tensors": [layout.tensors[0], wider]})
    assert [shape.out for shape in changed.modules()] == [7]
    assert [shape.out for shape in layout.modules()] == [5]
