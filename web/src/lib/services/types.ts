// The words of the server's `/api`, as they travel. Times end in `_ms` (Unix milliseconds unless the name says a
// duration), money in `_microdollars`.

export type Mode = 'auto' | 'fast' | 'thinking';
export type Role = 'user' | 'assistant';
export type ReplyStatus = 'done' | 'streaming' | 'stopped' | 'failed' | 'length';

export interface User {
	id: string;
	name: string;
	role: 'user' | 'admin';
	plan: string;
	locale: string | null;
	has_password: boolean;
}

export interface ModelState {
	state: 'ready' | 'pulling' | 'loading' | 'failed' | 'away';
	bytes?: number | null;
	total_bytes?: number | null;
	error?: string | null;
	name?: string | null;
	context_tokens?: number | null;
}

export interface SessionInfo {
	user: User | null;
	csrf: string;
	instance: {
		name: string;
		version: string;
		sign_up: boolean;
		oidc: { id: string; label: string }[];
		set_up: boolean;
	};
	model: ModelState;
}

export interface Conversation {
	id: string;
	title: string;
	folder_id: string | null;
	persona: string | null;
	mode: Mode;
	pinned: boolean;
	head: string | null;
	created_ms: number;
	updated_ms: number;
}

export interface Usage {
	prompt_tokens: number;
	cached_tokens: number;
	completion_tokens: number;
	reasoning_tokens: number;
}

export interface Timings {
	first_token_ms: number;
	prompt_ms: number;
	decode_ms: number;
	thought_ms?: number | null;
}

export type Chip = 'too_long' | 'too_cold' | 'too_pushy' | 'not_true';

export interface MessageFeedback {
	thumb: 1 | -1 | null;
	chips: string[];
	comment: string | null;
}

export interface Message {
	id: string;
	parent_id: string | null;
	role: Role;
	content: string;
	thought: string | null;
	status: ReplyStatus;
	mode_asked: Mode | null;
	mode: 'fast' | 'thinking' | null;
	mode_reason: string | null;
	build: string | null;
	usage: Usage | null;
	timings: Timings | null;
	cost_microdollars: number | null;
	created_ms: number;
	error: string | null;
	feedback: MessageFeedback;
	choice_of: string | null;
}

interface Likely {
	label: string;
	probability: number;
}

/** How a message was read, where the server reads messages. */
export interface Reading {
	basis: 'trained' | 'lexicon' | 'none';
	/** Likeliest first; only those that are said to be there. */
	feelings: Likely[];
	/** 0 to 1. */
	intensity: number;
	needs: Likely[];
	risk: { probability: number; is_cue: boolean };
	formality: number | null;
}

export interface Folder {
	id: string;
	name: string;
}

export interface SearchHit {
	conversation_id: string;
	title: string;
	/** Of the message that was found; none where the title was. */
	message_id: string | null;
	snippet: string;
}

export interface Share {
	id: string;
	token: string;
	url: string;
	created_ms: number;
	title?: string;
	conversation_id?: string;
}

export interface SharedChat {
	title: string;
	messages: { role: Role; content: string; thought?: string | null }[];
	shared_ms: number;
}

export interface Persona {
	id: string;
	version: string | number;
	name: string;
	tagline: string;
	description: string;
	languages: string[];
	/** The tagline and the description in other languages than English. */
	texts?: Record<string, { tagline: string; description: string }>;
}

export const SLIDERS = ['warmth', 'length', 'formality', 'humour', 'directness'] as const;
export type Slider = (typeof SLIDERS)[number];

export interface Style {
	persona: string | null;
	instructions: string;
	sliders: Record<Slider, number>;
	explanation: (Explained | string)[];
	can_undo: boolean;
}

/** A sentence of how the assistant talks, in English, and what it is about. */
export interface Explained {
	about: string;
	text: string;
	persona?: string;
	slider?: string;
	told?: string;
	n?: number;
}

export interface MemoryItem {
	id: string;
	text: string;
	created_ms: number;
	source: string;
}

export interface FeedbackReceipt {
	kept: boolean;
	kept_for: 'you' | 'training';
	style_changed: boolean;
}

export interface ApiKey {
	id: string;
	name: string;
	prefix: string;
	scopes: string[];
	created_ms: number;
	expires_ms: number | null;
	last_used_ms: number | null;
}

export interface Account {
	user: User;
	plan: { id: string; name: string; limits: Record<string, number | null>; prices: Record<string, number | null> };
	usage_today: { requests: number; tokens: number; thinking_tokens: number; cost_microdollars: number };
	resets_ms: number;
	/** Other ways in that were connected. */
	identities?: { issuer: string; connected_ms: number }[];
}

export interface UsageDay {
	day: string;
	requests: number;
	prompt_tokens: number;
	cached_tokens: number;
	completion_tokens: number;
	reasoning_tokens: number;
	cost_microdollars: number;
}

export interface ImportReport {
	format: string;
	imported: number;
	skipped: { title: string; reason: string }[];
}

export interface AdminUser {
	id: string;
	name: string;
	role: 'user' | 'admin';
	plan: string;
	disabled: boolean;
	created_ms: number;
	last_seen_ms: number | null;
	usage_today: { requests: number; tokens: number } | null;
}

export interface AdminKey extends ApiKey {
	user_name?: string;
}

export interface Plan {
	id: string;
	name: string;
	limits: Record<string, number | null>;
	prices: Record<string, number | null>;
}

export interface AdminModel {
	id: string;
	name: string;
	build: string;
	context_tokens: number;
	state: string;
	adapters: string[];
}

export interface LiveLoad {
	streams: number;
	queue: number;
	tokens_per_second: number;
	prompt_tokens_per_second: number;
	/** Counts are null where no engine tells them. */
	cache: { used_tokens: number | null; total_tokens: number | null; hit_share: number | null };
	users_online: number;
	memory_bytes: number;
}

export interface FeedbackEntry {
	id: string;
	at_ms: number;
	user_name: string | null;
	kind: string;
	value: unknown;
	build: string | null;
	message_id: string;
}

export interface Settings {
	instance_name: string;
	sign_up: boolean;
	retention_days: number | null;
	default_persona: string | null;
	default_plan: string;
	/** One in so many replies is a blind choice; 0 is none. */
	choice_every: number;
}

/** What one event of a reply's stream says. */
export type ReplyEvent =
	| { type: 'started'; choice: { mode: 'fast' | 'thinking'; reason: string }; prompt_tokens: number; cached_tokens: number }
	| { type: 'thought'; text: string }
	| { type: 'text'; text: string }
	| { type: 'finished'; message: Message }
	| { type: 'failed'; error: { code: string; message: string }; message: Message | null };
