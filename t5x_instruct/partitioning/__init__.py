"""One mesh, one table from logical axes to mesh axes, and arrays that span hosts."""
