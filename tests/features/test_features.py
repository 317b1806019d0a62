import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    BertModel,
)

from retrieval.errors import ModelError, QueryError
from retrieval.features.encoder import ClipEncoder
from retrieval.features.folding import fold_batch_norms, remove_open_gates
from retrieval.features.models import BUNDLED_FOLDER, choose_model
from retrieval.features.pixels import embed_pixels
from retrieval.pictures.loading import load_picture


@pytest.fixture(scope="module")
def encoder():
    return ClipEncoder(choose_model("mini"), "float32", "cpu")


@pytest.fixture(scope="module")
def names(queries):
    return sorted(path.stem for path in queries.glob("*.png"))


@pytest.fixture(scope="module")
def pictures(queries, names):
    return [load_picture(queries / f"{name}.png") for name in names]


@pytest.fixture(scope="module")
def vectors(encoder, pictures):
    return encoder.embed_query(pictures)


@pytest.fixture
def model(tmp_path):
    """A copy of the bundled model that tests may damage."""
    return shutil.copytree(BUNDLED_FOLDER, tmp_path / "some-model")


def load(folder):
    return ClipEncoder(choose_model(str(folder)), "float32", "cpu")


def test_pixels_are_ordered_by_row_column_and_channel():
    values = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    vector = embed_pixels([Image.fromarray(values)], size=4)
    np.testing.assert_array_equal(vector, values.reshape(1, -1) / np.float32(255))
    assert vector.dtype == np.float32


@pytest.mark.parametrize("size", [1, 32, 640])
def test_pixels_have_the_given_size_and_stay_in_range(pictures, size):
    rows = embed_pixels(pictures[:3], size)
    assert rows.shape == (3, size * size * 3)
    assert rows.min() >= 0 and rows.max() <= 1


def test_pixels_keep_the_order_of_the_batch(pictures):
    np.testing.assert_array_equal(embed_pixels(pictures, 32), np.concatenate([embed_pixels([p], 32) for p in pictures]))


def test_pixels_ignore_the_aspect_ratio():
    left_black, right_white = Image.new("RGB", (400, 10)), Image.new("RGB", (200, 10), "white")
    left_black.paste(right_white, (200, 0))
    columns = embed_pixels([left_black], 8).reshape(8, 8, 3)[..., 0]
    assert np.all(columns[:, :3] < 0.1) and np.all(columns[:, 5:] > 0.9)


def test_clip_vectors_have_unit_length(encoder, vectors, names):
    assert vectors.shape == (len(names), encoder.identity.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_vectors_do_not_depend_on_the_batch_in_float32(encoder, pictures, vectors):
    alone = np.concatenate([encoder.embed_query([picture]) for picture in pictures])
    np.testing.assert_allclose(alone, vectors, atol=1e-4)


@pytest.mark.parametrize(("dtype", "count"), [("bfloat16", 20), ("float16", 1)])  # float16 is slow on a CPU
def test_half_precision_vectors_are_close_to_float32(pictures, vectors, dtype, count):
    half = ClipEncoder(choose_model("mini"), dtype, "cpu")
    together = half.embed_query(pictures[:count])
    alone = np.concatenate([half.embed_query([picture]) for picture in pictures[:count]])
    assert together.dtype == np.float32
    # bfloat16 has 8 bits, and the 23 blocks of the vision tower round in turn: 0.987 was measured.
    assert (together * vectors[:count]).sum(axis=1).min() >= 0.98
    assert (together * alone).sum(axis=1).min() >= 0.98
    assert half.identity.dtype == dtype


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1)])
def test_extreme_aspect_ratios_and_tiny_pictures_have_unit_vectors(encoder, size):
    assert np.linalg.norm(encoder.embed_query([Image.new("RGB", size, "red")])) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("words", "name"), [("a pizza", "pizza"), ("a red apple", "red-apple"), ("a cat", "cat"), ("a castle", "castle")]
)
def test_texts_are_close_to_the_picture_they_describe(encoder, vectors, names, words, name):
    text = encoder.embed_texts([words])
    assert np.linalg.norm(text) == pytest.approx(1, abs=1e-6)
    best = np.argsort(-(vectors @ text[0]))[:3]
    assert name in [names[i] for i in best]


def test_long_texts_are_truncated(encoder):
    assert np.isfinite(encoder.embed_texts(["very " * 1000 + "long"])).all()


def test_visitors_at_the_same_time_do_not_change_how_a_text_is_read(encoder):
    texts = ["a cat", "a photo of a castle beside a lake at night"]
    expected = encoder.embed_texts(texts)

    def embed_and_read(number: int) -> np.ndarray:
        encoder.read(f"castle {number}", ("{}",))  # without padding
        return encoder.embed_texts(texts)

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(embed_and_read, range(200)):
            np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("spoil", [lambda file: file.unlink(), lambda file: file.write_text("{")])
def test_model_without_tokenizer_embeds_pictures_but_not_text(model, pictures, vectors, spoil):
    for file in model.glob("tokenizer*"):
        spoil(file)
    textless = load(model)
    np.testing.assert_allclose(textless.embed_query(pictures[:2]), vectors[:2], atol=1e-4)
    with pytest.raises(QueryError, match=r"does not support text\. Search with an image"):
        textless.embed_texts(["a cat"])


def test_changed_weights_change_the_revision(model):
    before = choose_model(str(model)).revision
    assert before == choose_model("mini").revision
    weights = next(model.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert choose_model(str(model)).revision != before


def test_error_for_a_model_folder_without_config(model):
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match=r"some-model` has no config.json.*--model mini"):
        load(model)


def test_error_names_a_missing_model_folder():
    with pytest.raises(ModelError, match=r"no model folder '\./nowhere'.*Check the path"):
        choose_model("./nowhere")


@pytest.mark.parametrize("spoil", [lambda data: b"no weights at all", lambda data: data[: len(data) // 2]])
def test_error_for_damaged_weights(model, spoil):
    weights = next(model.glob("*.safetensors"))
    weights.write_bytes(spoil(weights.read_bytes()))
    with pytest.raises(ModelError, match=r"some-model` cannot be loaded: .*another `--model`"):
        load(model)


def test_error_for_missing_weights(model):
    next(model.glob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"some-model` cannot be loaded: .*another `--model`"):
        load(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "processor_config.json"])
@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_error_for_damaged_config_files(model, name, text):
    (model / name).write_text(text)
    with pytest.raises(ModelError, match=r"some-model` cannot be loaded: .*another `--model`"):
        load(model)


def test_error_for_a_text_only_model(model):
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    for file in model.glob("*.safetensors*"):
        file.unlink()
    BertModel(config).save_pretrained(model)
    with pytest.raises(ModelError, match=r"some-model is a BertModel, which has no image features.*CLIP"):
        load(model)


def test_folding_batch_norms_changes_vectors_only_by_rounding(pictures, vectors):
    plain = AutoModel.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(BUNDLED_FOLDER, backend="pil")
    with torch.inference_mode():
        output = plain.get_image_features(**processor(images=pictures, return_tensors="pt")).pooler_output
    wanted = torch.nn.functional.normalize(output, dim=-1).numpy()
    assert (vectors * wanted).sum(axis=1).min() >= 0.9999
    norms = [type(each) for each in plain.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert fold_batch_norms(plain) == len(norms) > 0
    assert fold_batch_norms(plain) == 0


def test_only_gates_that_are_always_open_are_removed():
    model = AutoModel.from_pretrained(BUNDLED_FOLDER, dtype=torch.float32).eval().vision_model
    pixels = torch.randn(1, 3, 64, 64)
    blocks = model.encoder.blocks
    with torch.inference_mode():
        wanted = model(pixel_values=pixels).pooler_output
        blocks[0].squeeze_excite.expand.weight[0] = 1
        assert remove_open_gates(model) == len(blocks) - 1
        blocks[0].squeeze_excite.expand.weight[0] = 0
        assert torch.equal(model(pixel_values=pixels).pooler_output, wanted)
    assert remove_open_gates(model) == 1


def test_only_norms_directly_after_their_convolution_are_folded():
    convolution, other, norm = torch.nn.Conv2d(3, 5, 1), torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(5)
    for layers in (
        [norm, convolution],
        [convolution, torch.nn.ReLU(), norm],
        [other, norm],
    ):
        model = torch.nn.Sequential(*layers).eval()
        assert fold_batch_norms(model) == 0
        assert norm in model
