// Runs before the first paint, so that the page never flashes in the wrong colours or direction.
(function () {
	try {
		var theme = localStorage.getItem('rapport.theme');
		if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
		var locale = localStorage.getItem('rapport.locale') || navigator.language || 'en';
		document.documentElement.lang = locale.slice(0, 2) === 'ja' ? 'ja' : 'en';
	} catch (error) {
		// Storage may be closed to us: the system's theme is used.
	}
})();
