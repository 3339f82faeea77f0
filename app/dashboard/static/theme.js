// Apply the stored theme before the first paint.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch (error) { /* storage is off: the system's choice holds */ }
