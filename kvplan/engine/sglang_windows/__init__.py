"""SGLang's scheduler where sliding windows have a pool of their own (``SWATokenToKVPoolAllocator``)."""
