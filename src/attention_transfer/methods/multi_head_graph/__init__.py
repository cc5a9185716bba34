"""Multi-head graph distillation: graphs between the images of a batch."""
