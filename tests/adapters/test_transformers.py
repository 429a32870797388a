"""Encoders of Hugging Face whose attention is replaced."""

import copy
import pickle

import pytest
import torch
from families import TEXT, batch_of, hidden, model_of
from torch.testing import assert_close
from transformers import AttentionInterface, BertModel

from hsa_geometric import from_sequence
from hsa_geometric.adapters import replace_attention, restore_attention
from hsa_geometric.adapters.replace_attention import sites_of
from hsa_geometric.interactions import heaviest

FAMILIES = (*TEXT, "vit")
WINDOWS = {"hierarchy": (4, 16), "lists": 1.0}


def options_of(family):
    return {"hierarchy": "grid", "lists": 1.0} if family == "vit" else WINDOWS


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_star_is_the_original(family, implementation):
    model = model_of(family, attn_implementation=implementation)
    for left in (False, True):
        for lengths in ((40, 23, 31), (40, 40)):
            inputs, mask = batch_of(family, lengths, left)
            with torch.no_grad():
                expected = hidden(model, inputs, mask)
                replace_attention(model, hierarchy="star")
                assert_close(hidden(model, inputs, mask), expected, atol=1e-5, rtol=1e-5)
                restore_attention(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_star_is_the_original_in_bfloat16(family):
    model = model_of(family).bfloat16()
    inputs, mask = batch_of(family)
    if family == "vit":
        inputs = {"pixel_values": inputs["pixel_values"].bfloat16()}
    exact = copy.deepcopy(model).double()
    with torch.no_grad():
        wanted = hidden(exact, {k: v.double() if v.is_floating_point() else v for k, v in
                                inputs.items()}, mask)  # fmt: skip
        softmax = (hidden(model, inputs, mask) - wanted).abs().mean()
        ours = (hidden(replace_attention(model, hierarchy="star"), inputs, mask) - wanted).abs()
    assert ours.mean() < 1.5 * softmax  # bfloat16 rounds the rest of the model alike


@pytest.mark.parametrize("family", FAMILIES)
def test_opening_more_comes_nearer_to_softmax(family):
    model = model_of(family)
    inputs, mask = batch_of(family)
    errors = []
    with torch.no_grad():
        expected = hidden(model, inputs, mask)
        for lists in (None, 0.8, 0.02):
            replace_attention(model, **{**options_of(family), "lists": lists})
            errors.append(float((hidden(model, inputs, mask) - expected).square().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] > 1e-4
    assert errors[2] < 1e-9  # everything is opened


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_to_all_weights_that_had_some(family):
    model = model_of(family)
    inputs, mask = batch_of(family)

    def gradients():
        model.zero_grad()
        hidden(model, inputs, mask).square().sum().backward()
        return {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}

    expected = gradients()
    replace_attention(model, **options_of(family))
    found = gradients()
    assert found.keys() == expected.keys()
    for name, x in found.items():
        assert x.isfinite().all(), name
        assert bool(x.any()) == bool(expected[name].any()), name
    replace_attention(model, hierarchy="star", lists=None)
    for name, x in gradients().items():
        assert_close(x, expected[name], atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_restored_outputs_and_configuration_are_equal_in_every_bit(family):
    model = model_of(family)
    inputs, mask = batch_of(family)
    before, config = hidden(model, inputs, mask), model.config.to_dict()
    names = {name: set(vars(m)) for name, m in model.named_modules()}
    replace_attention(model, special_ids=() if family == "vit" else (0, 2), **options_of(family))
    assert model.config._attn_implementation == "hsa_sdpa"
    hidden(model, inputs, mask)
    restore_attention(model)
    assert model.config._attn_implementation == "sdpa"
    assert model.config.to_dict() == config
    assert {name: set(vars(m)) for name, m in model.named_modules()} == names
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert torch.equal(hidden(model, inputs, mask), before)
    restore_attention(model)


def test_the_state_dict_is_unchanged_and_saving_loads_the_original(tmp_path):
    model = model_of("bert")
    inputs, mask = batch_of("bert")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    softmax = hidden(model, inputs, mask)
    replace_attention(model, **WINDOWS)
    ours = hidden(model, inputs, mask)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.save_pretrained(tmp_path)
    loaded = BertModel.from_pretrained(tmp_path).eval()
    assert loaded.config._attn_implementation == "sdpa"
    assert torch.equal(hidden(loaded, inputs, mask), softmax)
    assert torch.equal(hidden(replace_attention(loaded, **WINDOWS), inputs, mask), ours)


def test_copies_and_pickles_are_replaced_too_and_restored_by_themselves():
    model = model_of("bert")
    inputs, mask = batch_of("bert")
    softmax = hidden(model, inputs, mask)
    replace_attention(model, special_ids=(5,), **WINDOWS)
    ours = hidden(model, inputs, mask)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(hidden(other, inputs, mask), ours)
        assert torch.equal(hidden(restore_attention(other), inputs, mask), softmax)
        assert torch.equal(hidden(model, inputs, mask), ours)


def test_replacing_twice_replaces_once_and_adds_layers():
    model = model_of("bert")
    inputs, mask = batch_of("bert")
    softmax = hidden(model, inputs, mask)
    both = hidden(replace_attention(model, layers=[0, 2], **WINDOWS), inputs, mask)
    assert torch.equal(
        hidden(replace_attention(model, layers=[0, 2], **WINDOWS), inputs, mask), both
    )
    restore_attention(model)
    replace_attention(model, layers=[0], **WINDOWS)
    one = hidden(model, inputs, mask)
    assert not torch.equal(one, both)
    assert torch.equal(hidden(replace_attention(model, layers=[2], **WINDOWS), inputs, mask), both)
    assert torch.equal(hidden(restore_attention(model), inputs, mask), softmax)


@pytest.mark.parametrize(
    ("family", "left"),  # the positions of the others count padding on the left
    [*((family, False) for family in TEXT), ("bert", True), ("modernbert", True)],
)
def test_sequences_attend_as_if_alone_whatever_the_padding_holds(family, left):
    model = replace_attention(model_of(family), **WINDOWS)
    inputs, mask = batch_of(family, left=left)
    position = mask.long().cumsum(1).sub(1).clamp(min=0)
    if family in ("bert", "modernbert"):
        inputs["position_ids"] = position
    whole = model(**inputs).last_hidden_state
    other = {**inputs, "input_ids": inputs["input_ids"].masked_fill(~mask, 7)}
    assert_close(model(**other).last_hidden_state[mask], whole[mask], atol=1e-6, rtol=0)
    if family == "roberta":
        return  # reads padding off the ids
    for row in range(len(mask)):
        alone = {k: v[row : row + 1, mask[row]] for k, v in inputs.items()}
        found = model(**alone).last_hidden_state[0]
        assert_close(found, whole[row, mask[row]], atol=1e-5, rtol=1e-5)


def test_masks_of_floats_and_of_four_dimensions_are_read():
    model = replace_attention(model_of("bert"), **WINDOWS)
    inputs, mask = batch_of("bert")
    expected = hidden(model, inputs, mask)
    four = mask[:, None, None, :].expand(-1, 1, 40, -1)
    low = torch.zeros(four.shape).masked_fill(~four, torch.finfo(torch.float32).min)
    infinite = torch.zeros(four.shape).masked_fill(~four, -torch.inf)
    for other in (mask, mask.float(), four, low, infinite):
        inputs["attention_mask"] = other
        assert torch.equal(hidden(model, inputs, mask), expected)


def test_a_sequence_that_is_all_padding_harms_nobody():
    model = model_of("bert")
    inputs, mask = batch_of("bert")
    inputs["attention_mask"][1] = 0
    mask = mask & inputs["attention_mask"].bool()
    expected = hidden(model, inputs, mask)
    replace_attention(model, hierarchy="star")
    assert_close(hidden(model, inputs, mask), expected, atol=1e-5, rtol=1e-5)
    replace_attention(model, **WINDOWS)
    assert model(**inputs).last_hidden_state.isfinite().all()
    inputs["attention_mask"][:] = 0
    assert model(**inputs).last_hidden_state.isfinite().all()


def test_positions_that_start_anew_are_one_sequence_to_the_original_and_to_us():
    model = model_of("bert")
    inputs, _ = batch_of("bert", (40,))
    inputs = {"input_ids": inputs["input_ids"], "position_ids": torch.arange(40).unsqueeze(0) % 20}
    expected = hidden(model, inputs)
    replace_attention(model, hierarchy="star")
    assert_close(hidden(model, inputs), expected, atol=1e-5, rtol=1e-5)


def test_a_mask_that_is_no_padding_is_refused_naming_the_module():
    model = replace_attention(model_of("bert"), layers=[1], **WINDOWS)
    inputs, _ = batch_of("bert", (40,))
    packed = torch.block_diag(*[torch.ones(20, 20)] * 2).bool()[None, None]
    inputs["attention_mask"] = packed
    with pytest.raises(ValueError, match=r"alike for all queries in 'encoder.layer.1.attention"):
        model(**inputs)
    inputs["attention_mask"] = torch.rand(1, 1, 40, 40)
    with pytest.raises(ValueError, match="of padding: 0, or minus infinity"):
        model(**inputs)
    del inputs["attention_mask"]
    model(**inputs)


def test_weights_are_refused_not_left_out():
    model = replace_attention(model_of("bert"), **WINDOWS)
    inputs, _ = batch_of("bert")
    with pytest.raises(ValueError, match="output_attentions=False"):
        model(**inputs, output_attentions=True)


def test_dropout_drops_in_training_and_never_in_eval():
    model = model_of("bert")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5 if "attention" in type(module).__name__ else module.p
    for site in sites_of(model):
        site.dropout.p = 0.4
    inputs, mask = batch_of("bert")
    expected = hidden(model, inputs, mask)
    replace_attention(model, hierarchy="star")
    assert_close(hidden(model, inputs, mask), expected, atol=1e-5, rtol=1e-5)
    model.train()
    one, two = hidden(model, inputs, mask), hidden(model, inputs, mask)
    assert not torch.equal(one, two)
    torch.manual_seed(0)
    one = hidden(model, inputs, mask)
    torch.manual_seed(0)
    assert torch.equal(hidden(model, inputs, mask), one)


def test_dropout_without_training_is_refused():
    model = replace_attention(model_of("bert"), **WINDOWS)
    module, q = next(iter(sites_of(model))), torch.randn(1, 4, 20, 8)
    attend = AttentionInterface()["hsa_sdpa"]
    with pytest.raises(ValueError, match=r"no dropout in eval\(\) in 'encoder.layer.0"):
        attend(module, q, q, q, None, dropout=0.1)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_activations_computed_again_give_the_same_gradients():
    model = replace_attention(model_of("bert"), special_ids=(5,), **WINDOWS).train()
    inputs, mask = batch_of("bert")

    def gradients():
        model.zero_grad()
        hidden(model, inputs, mask).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients()
    model.gradient_checkpointing_enable()
    for found, wanted in zip(gradients(), expected, strict=True):
        assert_close(found, wanted)


def test_sinks_are_seen_one_by_one_and_see_all():
    model = replace_attention(model_of("bert"), layers=[0], hierarchy=(4, 16))
    inputs, _ = batch_of("bert", (40, 23))
    seen = []
    site = next(iter(sites_of(model).values()))
    site.record = lambda site, rows: seen.append(rows)
    model(**inputs)
    rows = seen[0]
    _, lists = site.setting.structure(rows, "here")
    pairs = set(map(tuple, lists.block_ids.t().tolist()))
    for first, length in ((0, 40), (40, 23)):
        for sink in (first, first + length - 1):
            for token in range(first, first + length):
                assert (sink, token) in pairs
                assert (token, sink) in pairs
    assert lists.num_logits < 0.6 * (40**2 + 23**2)


def test_special_ids_are_sinks_wherever_they_stand():
    model = model_of("bert")
    inputs, mask = batch_of("bert")
    inputs["input_ids"][0, 11] = inputs["input_ids"][1, 5] = 2
    places = (inputs["input_ids"] == 2) & mask
    replace_attention(model, hierarchy=(4, 16), sinks=(), special_ids=(2,))
    site = next(iter(sites_of(model).values()))
    hidden(model, inputs, mask)
    found = site.setting._sinks(mask.sum(1), site.told["ids"][mask], "here")
    assert torch.equal(found, places[mask])
    site.told.clear()
    with pytest.raises(ValueError, match="Expected input_ids"):
        model(inputs_embeds=torch.randn(1, 9, 32))


def test_trees_and_lists_of_the_caller():
    model = model_of("bert")
    inputs, mask = batch_of("bert", (20, 20))
    parent = torch.cat([20 + torch.arange(20) // 5, torch.full((5,), 24)])
    expected = hidden(replace_attention(model, hierarchy=parent), inputs, mask)
    replace_attention(model, hierarchy=(5,), sinks=())
    assert_close(hidden(model, inputs, mask), expected)
    replace_attention(model, hierarchy=lambda lengths: torch.cat([parent, parent + 25]))
    assert torch.equal(hidden(model, inputs, mask), expected)
    softmax = hidden(restore_attention(model), inputs, mask)
    replace_attention(model, lists=lambda tree, q, k: heaviest(tree, q, k, budget=15))
    nearer = hidden(model, inputs, mask)
    assert (nearer - softmax).square().mean() < (expected - softmax).square().mean()
    fewer = torch.cat([19 + torch.arange(19) // 5, torch.full((5,), 23)])
    replace_attention(model, hierarchy=fewer)
    with pytest.raises(ValueError, match=r"\[20, 20\] leaves, one for each .* 'encoder.layer.0"):
        hidden(model, inputs, mask)
    replace_attention(model, hierarchy=parent, lists=lambda tree, q, k: 3)
    with pytest.raises(TypeError, match="return InteractionLists or None in 'encoder"):
        hidden(model, inputs, mask)


def test_units_of_the_text_are_trees_too():
    model = model_of("bert")
    inputs, mask = batch_of("bert", (20, 12))
    ends = torch.tensor([3, 9])  # full stops
    first = torch.zeros(32, dtype=torch.bool)
    stops = torch.isin(inputs["input_ids"][mask], ends)
    first[1:] = stops[:-1]

    def sentences(lengths):
        return from_sequence(lengths, boundaries=[first]).tree

    found = hidden(replace_attention(model, hierarchy=sentences), inputs, mask)
    for row, length in enumerate((20, 12)):
        part = slice(0, 20) if row == 0 else slice(20, 32)
        tree = from_sequence(length, boundaries=[first[part]]).tree
        alone = {"input_ids": inputs["input_ids"][row : row + 1, :length]}
        assert_close(hidden(replace_attention(model, hierarchy=tree), alone)[0], found[part])


def test_the_papers_own_choice_leaves_a_token_out():
    model = replace_attention(model_of("bert"), hierarchy="star", self_loop=False, layers=[0])
    inputs, mask = batch_of("bert")
    without = hidden(model, inputs, mask)
    assert not torch.allclose(without, hidden(restore_attention(model), inputs, mask), atol=1e-3)


def test_models_that_cannot_be_replaced_are_refused_naming_the_module():
    from transformers import (
        GPT2Config,
        GPT2Model,
        MPNetConfig,
        MPNetModel,
        T5Config,
        T5EncoderModel,
    )

    sizes = ("vocab_size", "num_attention_heads", "hidden_size", "intermediate_size")
    small = dict(zip(sizes, (20, 2, 8, 8), strict=True))
    mpnet = MPNetModel(MPNetConfig(**small, num_hidden_layers=1))
    with pytest.raises(ValueError, match=r"attention that can be replaced \(got MPNetModel: "):
        replace_attention(mpnet)
    t5 = T5EncoderModel(
        T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    with pytest.raises(ValueError, match=r"SelfAttention' has a bias of relative positions"):
        replace_attention(t5)
    gpt = GPT2Model(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"'h.0.attn' has causal attention"):
        replace_attention(gpt)
    with pytest.raises(ValueError, match="causal"):
        replace_attention(model_of("bert", is_decoder=True))
    with pytest.raises(ValueError, match=r"in 'layers.1.attn' \(got attention within a sliding"):
        replace_attention(model_of("modernbert"), layers=[1])
    with pytest.raises(ValueError, match=r"\(got Linear: none that is known\)"):
        replace_attention(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [3]}, r"'layers' to be in \[0, 2\].*BertModel \(got 3\)"),
        ({"layers": [-1]}, r"'layers' to be in"),
        ({"hierarchy": "tree"}, "'hierarchy' to be 'star', 'grid'"),
        ({"hierarchy": (4, 6)}, "grow by whole multiples"),
        ({"hierarchy": 1}, "'hierarchy' to be at least 2"),
        ({"lists": -1.0}, "'lists' to be positive"),
    ],
)
def test_wrong_options_are_refused_and_change_nothing(options, message):
    model = model_of("bert")
    with pytest.raises(ValueError, match=message):
        replace_attention(model, **options)
    assert model.config._attn_implementation == "sdpa"
    assert not any("hsa" in vars(m) for m in model.modules())


def test_images_need_a_square_of_patches():
    model = replace_attention(model_of("vit"), hierarchy="grid", sinks=())
    with pytest.raises(ValueError, match=r"square of patches .* \(got 65 of 65 tokens"):
        model(torch.randn(1, 3, 32, 32))


def test_without_transformers_the_error_names_the_extra(monkeypatch):
    import sys

    model = model_of("bert")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"hsa_geometric\[transformers\]"):
        replace_attention(model)
