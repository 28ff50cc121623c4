"""What a bulk sync has on disk beside the database: sorted runs, and the manifest that names them."""
