"""The XenAPI of the sample toolstack: a store of objects driven by tables, and the operations that change it."""
