// Where a phone's keyboard covers the page instead of making it smaller (iOS), the app takes the height that is left, so
// that the composer stays in sight. Browsers that shrink the page themselves (`interactive-widget`) notice nothing.

/** Below this, the visible part is smaller for other reasons: a toolbar, a zoom. */
const LEAST_PX = 120;

/** Keeps `--app-height` on the page while a keyboard covers it; returns what ends that. */
export function followKeyboard(): () => void {
	const viewport = globalThis.visualViewport;
	if (!viewport) return () => {};
	const { style } = document.documentElement;
	const look = () => {
		const covered = innerHeight - viewport.height;
		if (viewport.scale > 1.01 || covered < LEAST_PX) style.removeProperty('--app-height');
		else {
			style.setProperty('--app-height', `${viewport.height}px`);
			// The browser scrolls the page to show the field; the app is as high as what is seen.
			scrollTo(0, 0);
		}
	};
	viewport.addEventListener('resize', look);
	viewport.addEventListener('scroll', look);
	return () => {
		viewport.removeEventListener('resize', look);
		viewport.removeEventListener('scroll', look);
	};
}
