"""The stages of a build at which the tests interrupt the builder."""

from tests.support.warm import Moment

STAGES = {
    "the gallery is claimed": Moment("FolderLocation.begin", "call"),
    "the store is open": Moment("FolderStore.__init__", "return"),
    "thumbnails are written": Moment("write_thumbnails", "return"),
    "some vectors of some batches are written": Moment("Collection.upsert", "return", 3),
    "a batch is about to be stored": Moment("Batches.add", "call"),
    "ChromaDB is being rewritten": Moment("Collection.upsert", "return", 2),
    "a batch is written": Moment("FolderStore.write", "return"),
    "every batch is written": Moment("FolderStore.write", "return"),
    "ChromaDB has every batch": Moment("FolderStore.reconcile", "return"),
    "one matrix is exported": Moment("_export", "return"),
    "everything is exported": Moment("export", "return"),
    "one map is made": Moment("project", "return"),
    "the maps are made": Moment("_Run._make_maps", "return"),
    "the checksums are written": Moment("write_checksums", "return"),
    "the manifest is about to be renamed": Moment("Path.replace", "call", name_prefix="manifest.json"),
    "the manifest is renamed": Moment("publish_manifest", "return"),
    "the old build is about to be swept away": Moment("sweep", "call"),
    "the old build is half swept away": Moment("_rmtree_safe_fd", "return"),
    "the old build is swept away": Moment("sweep", "return"),
}
