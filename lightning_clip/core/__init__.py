"""What every room uses: types, errors, names, settings, files, ranks."""
