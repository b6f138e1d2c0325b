[Appearance]
ColorScheme=VeilorDark
Font=JetBrains Mono,11,-1,5,400,0,0,0,0,0,0,0,0,0,0,1

[Cursor Options]
CursorShape=0

[General]
Name=veilor
Parent=FALLBACK/
TerminalColumns=100
TerminalRows=30

[Interaction Options]
UnderlineFilesEnabled=true

[Scrolling]
HistorySize=10000
