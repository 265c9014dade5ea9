"""When a study is whole."""
