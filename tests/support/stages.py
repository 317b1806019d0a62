"""The stages of a build at which the tests interrupt the builder."""

from tests.support.warm import Moment

STAGES = {
    "the gallery is claimed": Moment("_Run.run", "call"),
    "what killed builds left is deleted": Moment("sweep", "return"),
    "some files are read": Moment("Embedder._read", "return", 2),
    "some thumbnails are written": Moment("EmbeddingStore.write_thumbnail", "return", 3),
    "a part is about to be written": Moment("Parts.write", "call"),
    "the vectors of one feature type are written": Moment("Parts.write", "return"),
    "a part with images is written": Moment("EmbeddingStore.add_pictures", "return"),
    "everything is embedded": Moment("_Run._publish", "call"),
    "the items are written": Moment("_write_items", "return"),
    "one matrix is written": Moment("fill_matrix", "return"),
    "some thumbnails are linked": Moment("_link", "return", 3),
    "the snapshot is written": Moment("write_snapshot", "return"),
    "the manifest is about to be renamed": Moment("Path.replace", "call", name_prefix="manifest.json"),
    "the manifest is renamed": Moment("publish_manifest", "return"),
    "one map is made": Moment("project", "return"),
    "ChromaDB is about to be built": Moment("run_in_process", "call"),
    "ChromaDB is being built": Moment("ItemVectors.check_open", "call", 2),
    "ChromaDB is built": Moment("run_in_process", "return"),
    "the old snapshot is about to be deleted": Moment("sweep", "call", 2),
    "the old snapshot is half deleted": Moment("_rmtree_safe_fd", "return"),
    "the old snapshot is deleted": Moment("sweep", "return", 2),
}
PUBLISHED = 8  # the last stages, after the manifest is renamed
