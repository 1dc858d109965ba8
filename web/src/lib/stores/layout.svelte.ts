class Layout {
	/** The list of chats is open over the page, on narrow screens. */
	menu = $state(false);
	searching = $state(false);
}

export const layout = new Layout();
