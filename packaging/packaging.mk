# What is shipped beside the sources.

EXTRA_DIST += autogen.sh LICENSE README.md NEWS
