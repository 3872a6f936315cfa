"""Turn raw footage into clips of one person speaking, with masks and captions, as `avatarctl data encode` reads them."""
