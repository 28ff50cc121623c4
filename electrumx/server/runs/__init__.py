"""Files of a bulk sync beside the database: sorted runs, and the manifest that names them."""

#: of the database directory
FOLDER = "bulk_sync"
