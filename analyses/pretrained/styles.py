"""Sets of emoji: the packages of pictures, by the name of their style."""

from xmi.model.packages import Package

STYLES = {
    "noto": Package(
        "@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "Apache-2.0",
        "Noto Emoji", "Google (github.com/googlefonts/noto-emoji)",
    ),
    "noto-v1": Package(
        "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        "Apache-2.0", "Noto Emoji, first version", "Google (github.com/googlefonts/noto-emoji)",
    ),
    "twemoji": Package(
        "@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        "CC-BY-4.0", "Twemoji", "Twitter (github.com/twitter/twemoji)",
    ),
    "openmoji": Package(
        "@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
        "CC-BY-SA-4.0", "OpenMoji", "OpenMoji (github.com/hfg-gmuend/openmoji)",
    ),
    "emojione": Package(
        "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        "CC-BY-4.0", "Emoji One (Colored)", "Emoji One (github.com/EmojiTwo/emojitwo)",
    ),
    "fxemoji": Package(
        "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        "Apache-2.0", "Firefox OS Emoji", "Mozilla (github.com/mozilla/fxemoji)",
    ),
    "streamline": Package(
        "@iconify-json/streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        "CC-BY-4.0", "Streamline Emojis", "Streamline (github.com/webalys-hq/streamline-vectors)",
    ),
    "fluent-flat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        "MIT", "Fluent Emoji Flat", "Microsoft (github.com/microsoft/fluentui-emoji)",
    ),
    "fluent-3d": Package(
        "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58", "MIT",
        "Fluent Emoji 3D", "Microsoft (github.com/microsoft/fluentui-emoji)",
    ),
}  # fmt: skip
"""Every set of pictures by the name of its style."""
