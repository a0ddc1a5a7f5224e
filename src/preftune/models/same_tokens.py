"""Whether two models read the same tokens: only then may ids of one be given to the other."""

from preftune.models.chat import Chat


def same_tokens(ours: Chat, theirs: Chat) -> str:
    """Return why ids made by one chat cannot be read by another model; empty where they can.

    They can when tokenizer and template are the same to the last byte and the template does not
    look at the clock.
    """
    if ours.tokens_hash is not None and ours.tokens_hash == theirs.tokens_hash:
        return ""
    pair = f"{ours.where} and {theirs.where}"
    if ours.kind != theirs.kind:
        return f"{ours.where} is a {ours.kind}'s and {theirs.where} a {theirs.kind}'s"
    if ours.tokens_hash is None or theirs.tokens_hash is None:
        late = ours if ours.tokens_hash is None else theirs
        return f"the chat template of {late.where} writes other text at other times"
    if ours.template_hash != theirs.template_hash:
        return f"{pair} have different chat templates"
    left, right = (chat.tokenizer.get_vocab() for chat in (ours, theirs))
    if left == right:
        return f"the tokenizers of {pair} split text differently"
    token = min(name for name, number in (left.items() ^ right.items()))
    return (
        f"{pair} have different vocabularies: {token!r} is {left.get(token, 'not in the first')} "
        f"and {right.get(token, 'not in the second')}"
    )
