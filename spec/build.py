"""`make spec`: write the schemas and the vectors again; a change shows in the diff."""

from spec import make_schemas, make_vectors

if __name__ == "__main__":
    make_schemas.write()
    make_vectors.write()
