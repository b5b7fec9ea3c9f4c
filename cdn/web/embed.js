// Runs before the body is drawn: at /NAME?embed the page is the video alone.

if (new URLSearchParams(location.search).has("embed")) document.documentElement.classList.add("embed");
