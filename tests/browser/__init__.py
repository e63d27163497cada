"""Tests in a real browser: Chromium against JupyterLab, Notebook 7, Voila and pages opened from disk."""
