"""The Triton kernels. Importing this package needs triton; nothing above the launchers imports it eagerly."""
