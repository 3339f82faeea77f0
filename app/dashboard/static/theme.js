// Light or dark as chosen before, set before anything is drawn.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
} catch (error) { /* storage is off: the system's choice holds */ }
