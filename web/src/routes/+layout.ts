// One page that draws itself: the server only hands out files and data.
export const ssr = false;
export const prerender = false;
