"""What cell spaces are made of: candidate operations, merged edges, cells, norms."""
