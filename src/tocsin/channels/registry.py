"""Every channel, one line each. The order is that of the reference page."""

from tocsin.channels import discord, email, google_chat, microsoft_teams, ntfy, slack, telegram, webhook, x
from tocsin.channels.contract import AnyChannel

CHANNELS: dict[str, AnyChannel] = {
    channel.type: channel
    for channel in (
        email.CHANNEL,
        webhook.CHANNEL,
        slack.CHANNEL,
        discord.CHANNEL,
        telegram.CHANNEL,
        microsoft_teams.CHANNEL,
        x.CHANNEL,
        google_chat.CHANNEL,
        ntfy.CHANNEL,
    )
}
