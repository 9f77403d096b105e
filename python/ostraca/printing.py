"""Text from elsewhere, on its way to a terminal."""


def escaped(text: str) -> str:
    """Text with all that a terminal would act upon, or not show, as Python escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
