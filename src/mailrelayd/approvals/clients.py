"""What mail clients write around a person's text, in the languages they speak: all as data.

Everything is compared folded (`words.fold`). Sources are the clients' own texts; a new client or language is a new
entry here and a mail in tests/replies/.
"""

from __future__ import annotations

# Lines that a sender of requests puts above the text to be kept: ours, and those of FlexDeploy and help desks.
MARKERS = (
    "reply above this line",
    "please do not modify below this line",
    "please do not modify anything below this line",
    "do not write below this line",
    "please type your reply above this line",
    "please reply above this line",
    "please write your reply above this line",
    "write above this line to reply",
)

# "On DATE, NAME wrote:". The verb, where it stands before or behind the name.
WROTE = (
    "wrote|writes|says|said|schrieb|schrieben|hat geschrieben|geschrieben|schreef|het volgende geschreven|geschreven"
    "|a ecrit|a écrit|ecrit|écrit|escribio|escribió|escribiste|escribe|ha scritto|scritto|scrive|escreveu|escreveram"
    "|escrita por|skrev|skreiv|følgende|följande|skriver|kirjoitti|kirjoittanut|napisał(a)|napisał|napisała|napisal"
    "|napisali|pisze|nadesłał|napsal(a)|napsal|napsala|napisal(a)|napísal(a)|napísal|napísala|írta|ezt írta"
    "|következőt írta|a scris|a scris urmatoarele|a scris următoarele|написал(а)|написал|написала|написали|пишет"
    "|писал|пише|написав|написала(в)|написав(ла)|написа|έγραψε|εγραψε|έγραψαν|yazdı|yazdi|şunu yazdı|şunları yazdı"
    "|yazmış|כתב|כתבה|כתב/ה|כתבו|מאת|كتب|كتبت|كتبه|نوشت|نوشته|写道|寫道|写入|书写|さんは書きました|は書きました"
    "|のメール|のメッセージ|さんのメール|から|書きました|님이 작성|작성|님이 쓴 글|이 작성함|이(가) 작성|เขียน"
    "|ได้เขียน|viết|đã viết|menulis|je napisao|napisao|je napisala|je napisao/la|je pisal|pisal|kirjutas|rakstīja"
    "|rakstija|parašė|parase|rašė|va escriure|ha escrit|ने लिखा|लिखा"
)

# The word that an attribution begins with: where it stands, a line break may follow within the attribution.
OPENERS = (
    "on|at|in message|am|le|el|il|in data|il giorno|em|op|den|på|dne|dňa|dnia|w dniu|pe|în data|la data|on the|dana"
    "|στις|την|tarihinde|بتاريخ|في|در|在|於|于|vào|pada|a|a les|ngày|am:|kuupäeval|nuo|בתאריך|ב|‫בתאריך|ma|od|man"
    "|tir|ons|tor|fre|lør|søn|mån|tis|lör|sön|ti|ke|to|la|su|пн|вт|ср|чт|пт|сб|вс|нд|понедельник|вторник|среда"
    "|четверг|пятница|суббота|воскресенье|mon|tue|wed|thu|fri|sat|sun|montag|dienstag|mittwoch|donnerstag|freitag"
    "|samstag|sonntag|lun|mar|mer|jeu|ven|sam|dim|seg|ter|qua|qui|sex|sáb|dom|śr|czw|pt|sob|ndz|pon|po|út|st|čt|pá"
    "|so|ne"
)

# Names of header fields as clients translate them, by what they name.
FROM = (
    "from|von|de|da|van|från|fra|lähettäjä|od|od:|feladó|de la|от|от кого|від|від кого|από|kimden|gönderen|מאת|من"
    "|发件人|發件人|寄件者|寄件人|差出人|送信者|보낸 사람|보낸사람|발신|발신인|จาก|từ|dari|expéditeur|remitente"
    "|mittente|remetente|afzender|avsändare|avsender|afsender|absender|nadawca|odesílatel|odosielateľ|expeditor"
    "|отправитель|відправник|αποστολέας|kto|no|saatja|nuo|oд|šalje|пратилац|von meinem|autor|exp.|فرستنده|از|से"
    "|प्रेषक|de part de|שולח|المرسل|发信人|보낸이|発信者|người gửi|pengirim|pošiljatelj|pošiljalec|sūtītājs|siuntėjas"
)
SENT = (
    "sent|date|gesendet|datum|envoyé|envoyé le|enviado|enviado el|enviada em|enviado em|fecha|inviato|data|verzonden"
    "|skickat|sendt|dato|lähetetty|päiväys|päivä|wysłano|odesláno|odoslané|dátum|elküldve|küldve|trimis|trimis la"
    "|отправлено|дата|надіслано|στάλθηκε|ημερομηνία|gönderildi|gönderilme tarihi|tarih|נשלח|תאריך|تاريخ|التاريخ"
    "|تاريخ الإرسال|تم الإرسال|发送时间|发送日期|日期|時間|傳送時間|寄件日期|寄送日期|送信日時|日時|日付|보낸 날짜"
    "|보낸날짜|날짜|일시|ส่งเมื่อ|วันที่|đã gửi|ngày|dikirim|tanggal|saadetud|kuupäev|nosūtīts|datums|išsiųsta"
    "|poslano|poslato|изпратено|sent at|le|data de|when|gesendet am|datum der|sent on|thời gian|gửi|dihantar"
    "|भेजा गया|दिनांक|päivämäärä|pvm|dată|时间|送信日|보낸시간|보낸 시간|εστάλη|gönderme tarihi|أرسلت|data invio"
)
TO = (
    "to|an|à|a|para|per|aan|till|til|vastaanottaja|saaja|do|komu|címzett|către|catre|кому|до|προς|kime|alıcı|אל"
    "|לכבוד|إلى|الى|收件人|收件者|宛先|받는 사람|받는사람|수신|수신인|ถึง|đến|tới|kepada|ke|saajad|adresāts|kam|za"
    "|prima|destinataire|destinatario|destinatário|ontvanger|mottagare|mottaker|modtager|empfänger|odbiorca|příjemce"
    "|príjemca|получатель|одержувач|gavėjas|به|को"
)
CC = (
    "cc|kopie|copie|copia|cópia|kopia|kopi|kopio|dw|udw|kópia|másolat|копия|копія|κοιν|κοιν.|bilgi|עותק|העתק|نسخة"
    "|抄送|副本|참조|สำเนา|bcc|reply-to|reply to|antwort an|répondre à|responder a|rispondi a|beantwoorden - aan"
    "|importance|wichtigkeit|attachments|anlagen|anhänge|pièces jointes|priorität|priority|organization|sender|kk"
    "|másolatot kap|cópia para|kopija"
)
SUBJECT = (
    "subject|betreff|objet|asunto|oggetto|assunto|onderwerp|ämne|emne|aihe|temat|předmět|predmet|tárgy|subiect|тема"
    "|θέμα|konu|נושא|הנדון|الموضوع|موضوع|主题|主題|主旨|件名|제목|เรื่อง|chủ đề|tiêu đề|subjek|perihal|teema|tēma"
    "|tema|относно|assumpte|zadeva|विषय|naslov|subject line|sujet"
)

# The words between dashes: "----- Original Message -----". FORWARDED ones say that the mail is no answer.
SEPARATORS = (
    "original message|original-nachricht|originalnachricht|ursprüngliche nachricht|originalmeldung|urspr. nachricht"
    "|message d'origine|message original|message initial|mensaje original|messaggio originale|mensagem original"
    "|oorspronkelijk bericht|origineel bericht|originalmeddelande|ursprungligt meddelande|opprinnelig melding"
    "|original melding|oprindelig meddelelse|oprindelig besked|original meddelelse|alkuperäinen viesti"
    "|wiadomość oryginalna|oryginalna wiadomość|treść oryginalnej wiadomości|původní zpráva|pôvodná správa"
    "|eredeti üzenet|mesaj original|mesajul original|исходное сообщение|оригинальное сообщение|исходное письмо"
    "|первоначальное сообщение|пересылаемое сообщение начало|оригінальне повідомлення|вихідне повідомлення"
    "|αρχικό μήνυμα|πρωτότυπο μήνυμα|orijinal mesaj|özgün ileti|orijinal ileti|özgün mesaj|הודעה מקורית"
    "|ההודעה המקורית|الرسالة الأصلية|رسالة أصلية|原始邮件|原始郵件|原邮件|原始信件|回复的原邮件|元のメッセージ"
    "|元メッセージ|オリジナルメッセージ|원본 메시지|원본 메일|원본메일|originalni message|izvorna poruka"
    "|originalna poruka|izvirno sporočilo|algne kiri|originaalkiri|sākotnējais ziņojums|pradinis laiškas"
    "|originalus laiškas|missatge original|pesan asli|tin nhắn gốc|thư gốc|ข้อความต้นฉบับ|reply message"
    "|оригинално съобщение"
    "|reply to message|antwort|quoted text|quoted message|end original message|текст оригинального сообщения"
    "|original mail|original appointment|ursprünglicher termin|original email|مرحبا الرسالة|پیام اصلی"
)
FORWARDED = (
    "forwarded message|forwarded email|forwarded mail|begin forwarded message|weitergeleitete nachricht"
    "|anfang der weitergeleiteten nachricht|weitergeleitete e-mail|message transféré|message transmis"
    "|début du message transféré|début du message réexpédié|mensaje reenviado|inicio del mensaje reenviado"
    "|comienzo del mensaje reenviado|messaggio inoltrato|inizio messaggio inoltrato|mensagem encaminhada"
    "|mensagem reencaminhada|início da mensagem encaminhada|início da mensagem reencaminhada|doorgestuurd bericht"
    "|begin doorgestuurd bericht|vidarebefordrat meddelande|vidarebefordrat brev|börja vidarebefordrat meddelande"
    "|videresendt melding|videresendt meddelelse|start på videresendt besked|videresendt besked|välitetty viesti"
    "|edelleenlähetetty viesti|välitetty viesti alkaa|przekazana wiadomość|wiadomość przekazana|przeposlaná zpráva"
    "|přeposlaná zpráva|předaná zpráva|preposlaná správa|továbbított üzenet|mesaj redirecționat|mesaj redirectionat"
    "|пересылаемое сообщение|пересланное сообщение|начало переадресованного сообщения|переслане повідомлення"
    "|προωθημένο μήνυμα|iletilen mesaj|yönlendirilmiş ileti|yönlendirilen ileti|הודעה שהועברה|הודעה מועברת"
    "|رسالة معاد توجيهها|رسالة محولة|转发邮件|转发的邮件|轉寄郵件|转发信息|転送メッセージ|転送されたメッセージ"
    "|전달된 메시지|전달된 메일|missatge reenviat|proslijeđena poruka|pesan terusan|tin nhắn đã chuyển tiếp"
)

# Subjects of mail that was handed on instead of answered ("vs" is an answer in Finnish).
FORWARD_PREFIXES = (
    "fw|fwd|wg|tr|rv|i|enc|doorst|vs|vb|vl|pd|továbbítás|tovabbitas|ilt|i̇lt|πρθ|הועבר|转发|轉寄|転送|전달|trs|fwd:"
    "|redir|пересл|reenv|res-fwd|edelleen|preposl|prosl|إعادة توجيه|chuyển tiếp"
)

# Lines that devices and programs add: "Sent from my iPhone". Each is a beginning, or, with "…", beginning and end.
SENT_FROM = (
    "sent from my|sent from|sent via|sent with|sent by my|sent using|get outlook for|von meinem …gesendet"
    "|von meiner …gesendet|gesendet von|gesendet mit|gesendet aus|gesendet über|diese nachricht wurde von …gesendet"
    "|holen sie sich outlook|outlook für|envoyé de mon|envoyé depuis|envoyé à partir|envoyé avec|envoyé via"
    "|envoyé de|obtenez outlook|télécharger outlook|téléchargez outlook|provenance :|enviado desde|enviado con"
    "|enviado via|enviado do|enviado de|enviado a partir|enviado pelo|enviado através|enviado mediante|enviat des"
    "|obtener outlook|descargar outlook|obter o outlook|obtenha o outlook|baixar o outlook|inviato da|inviato con"
    "|inviato dal|ottieni outlook|scarica outlook|verzonden vanaf|verzonden met|verzonden vanuit|verstuurd vanaf"
    "|verstuurd met|verstuurd vanuit|outlook voor|download outlook|skickat från|skickades från|hämta outlook"
    "|hämtar outlook|sendt fra|sendt via|sendt med|få outlook|hent outlook|lähetetty …stä|lähetetty …sta"
    "|lähetetty …lta|lähetetty …ltä|lähetetty |hanki outlook|wysłane z|wysłano z|wiadomość wysłana z|pobierz outlook"
    "|odesláno z|odesláno ze|odoslané z|získejte outlook|stáhnout outlook|získať outlook|küldve …ról|küldve …ből"
    "|küldve az|elküldve|az outlook|iphone-omról küldve|az iphone-omról|trimis de pe|trimis din|descărcați outlook"
    "|obțineți outlook|отправлено с|отправлено из|отправлено через|скачать outlook|получить outlook|надіслано з"
    "|надіслано із|отримати outlook|στάλθηκε από|εστάλη από|λήψη του outlook|αποκτήστε το outlook"
    "|iphone'umdan gönderildi|iphone’umdan gönderildi|…umdan gönderildi|…den gönderildi|…dan gönderildi"
    "|ios için outlook|android için outlook|נשלח מ|נשלח באמצעות|קבל את outlook|أرسلت من|تم الإرسال من|أُرسلت من"
    "|مرسل من|الحصول على outlook|احصل على outlook|从我的 iphone|发自我的|发自|来自我的|從我的|傳送自|获取 outlook"
    "|取得 outlook|下载 outlook|…から送信|iphoneから送信|outlook for ios を入手|…を入手|나의 iphone에서"
    "|내 iphone에서|…에서 보냄|…에서 발송|…받기|ส่งจาก|รับ outlook|đã gửi từ|được gửi từ|tải outlook|dikirim dari"
    "|unduh outlook|dapatkan outlook|poslano s|poslano iz|saadetud minu|nosūtīts no|išsiųsta iš|изпратено от"
    "|sent from outlook|diese e-mail wurde von"
)

# Paragraphs that lawyers add below a text: they begin so and speak of secrecy or recipients, or are long and do both.
DISCLAIMER_OPENERS = (
    "this e-mail|this email|this message|this communication|this transmission|the information contained"
    "|the information in this|the contents of this|the content of this|confidentiality|disclaimer|confidential"
    "|important notice|notice|legal notice|privileged|caution|please consider the environment|please think before"
    "|information contained in|any views|e-mail disclaimer|email disclaimer|internet communications"
    "|if you are not the|if you have received this|if you received this|diese e-mail|diese email|diese nachricht"
    "|die information|der inhalt dieser|der inhalt|hinweis|wichtiger hinweis|vertraulich|vertraulichkeitshinweis"
    "|bitte denken sie an die umwelt|bitte prüfen sie der umwelt|ce message|ce courriel|ce mail|cet e-mail|cet email"
    "|les informations|avertissement|avis de confidentialité|ce message et|este mensaje|este correo"
    "|la información contenida|aviso legal|aviso de confidencialidad|advertencia|esta mensagem|este e-mail"
    "|este email|a informação|aviso|as informações|questo messaggio|questa e-mail|questa email|la presente"
    "|le informazioni|avviso|avvertenza|il presente messaggio|il contenuto|dit bericht|deze e-mail|deze email"
    "|de informatie|vertrouwelijkheid|denk aan het milieu|detta meddelande|denna e-post|detta e-postmeddelande"
    "|denne e-post|denne e-posten|denne meldingen|denne mail|denne e-mail|denne meddelelse|tämä viesti"
    "|tämä sähköposti|ta wiadomość|niniejsza wiadomość|treść tej wiadomości|informacje zawarte|tato zpráva"
    "|tento e-mail|tento email|informace obsažené|ez az e-mail|ez az üzenet|az üzenet|acest mesaj|acest e-mail"
    "|это сообщение|данное сообщение|это электронное|настоящее сообщение|информация, содержащаяся|це повідомлення"
    "|αυτό το μήνυμα|το παρόν|το μήνυμα|bu e-posta|bu mesaj|bu ileti|bu elektronik posta|הודעה זו|מסר זה|המידע"
    "|هذه الرسالة|هذا البريد|المعلومات الواردة|إن هذه الرسالة|本邮件|此邮件|本電子郵件|此電子郵件|本信件|このメール"
    "|本メール|本電子メール|このメッセージ|이 메일|이 이메일|본 메일|본 이메일|이 메시지|본 전자우편"
)
SECRECY = (
    "confidential|privileged|vertraulich|confidentiel|confidencial|riservat|confidenziale|vertrouwelijk"
    "|konfidentiell|fortrolig|konfidensiell|luottamuksel|poufn|důvěrn|bizalmas|confidențial|конфиденциальн"
    "|конфіденційн|εμπιστευτικ|gizli|חסוי|סודי|سرية|السرية|机密|保密|機密|秘密|기밀"
)
RECIPIENTS = (
    "intended recipient|intended solely|intended only|addressee|environment before|before printing|empfänger"
    "|adressat|umwelt|destinataire|destinatario|destinatário|destinatari|geadresseerde|bestemd voor|avsedd|mottagare"
    "|mottaker|modtager|vastaanottaja|adresat|adresát|címzett|destinatar|адресат|получател|отримувач|παραλήπτ|alıcı"
    "|נמען|המיועד|المستلم|المرسل إليه|收件人|收件者|宛先|受信者|수신인|수신자|received in error|received this"
    "|erroneously|irrtümlich erhalten|par erreur|por error|per errore|por engano"
)

# Subjects that mail systems write: the phrase, then a colon or the end, or what is listed behind it.
BOUNCE_SUBJECTS = (
    "undeliverable|undelivered mail returned to sender|undelivered mail|undeliverable mail|undeliverable message"
    "|undelivered message|returned mail|mail returned|returned to sender|failure notice|delivery failure"
    "|delivery failed|delivery status notification|delivery notification|delivery report|delivery delayed"
    "|delivery incomplete|delayed mail|delayed delivery|mail delivery failed|mail delivery failure"
    "|mail delivery problem|mail delivery error|mail delivery status|mail delivery subsystem|mail delivery system"
    "|mail system error|message delivery failure|message not delivered|message undeliverable"
    "|message delivery delayed|message delayed|message status - undeliverable|could not send message"
    "|could not deliver|nondeliverable mail|non-delivery report|non delivery report|ndn|unable to deliver mail"
    "|unable to deliver your message|unable to deliver|mail could not be delivered"
    "|your message could not be delivered|email delivery failure|rejected mail|bounce|bounced mail|user unknown"
    "|mail failure|mail error|message failure|warning: could not send message|warning: message|delivery error"
    "|permanent delivery failure|unzustellbar|nicht zustellbar|unzustellbare nachricht|zustellung fehlgeschlagen"
    "|zustellbenachrichtigung|nicht zugestellt|non remis|non distribuable|échec de la remise|message non remis"
    "|notification d'échec|no se puede entregar|no entregado|no entregable|error de entrega|non recapitabile"
    "|mancato recapito|impossibile recapitare|messaggio non recapitato|não é possível entregar|não entregue"
    "|falha na entrega|devolvido|onbestelbaar|kan niet worden bezorgd|niet afgeleverd|går inte att leverera"
    "|ej levererat|olevererbart|kan ikke leveres|ikke levert|ikke leveret|ei voida toimittaa|toimitus epäonnistui"
    "|perilletoimittamaton|nie można dostarczyć|niedostarczone|nie dostarczono|nedoručitelné|nedoručiteľné"
    "|nelze doručit|nem kézbesíthető|kézbesíthetetlen|nelivrabil|imposibil de livrat|не удается доставить"
    "|недоставленное сообщение|не доставлено|сообщение не доставлено|не вдалося доставити|недоставлено"
    "|δεν είναι δυνατή η παράδοση|μη παραδοτέο|teslim edilemedi|iletilemedi|לא ניתן למסירה|לא ניתן למסור|تعذر تسليم"
    "|غير قابل للتسليم|邮件无法送达|无法送达|未送达|無法傳遞|無法傳送|未傳遞的主旨|退信|系统退信|配信不能"
    "|配信できません|配信エラー|未配信|送信エラー|배달되지 않음|배달할 수 없음|배달 실패|발송 실패|전송 실패"
    "|メールエラー通知"
)
BOUNCE_SUBJECT_ENDS = "see transcript|returning message|for past|message from|to|notice|failure|still"

# Subjects of automatic answers: the phrase, then a colon or the end.
AUTOMATIC_SUBJECTS = (
    "auto-reply|auto-response|auto-answer|auto-acknowledgement|auto-acknowledgment|auto-notification|auto-message"
    "|auto-confirmation|auto reply|auto response|auto answer|auto acknowledgement|auto acknowledgment"
    "|auto notification|auto message|auto confirmation|automatic-reply|automatic-response|automatic-answer"
    "|automatic-acknowledgement|automatic-acknowledgment|automatic-notification|automatic-message"
    "|automatic-confirmation|automatic reply|automatic response|automatic answer|automatic acknowledgement"
    "|automatic acknowledgment|automatic notification|automatic message|automatic confirmation|automated-reply"
    "|automated-response|automated-answer|automated-acknowledgement|automated-acknowledgment|automated-notification"
    "|automated-message|automated-confirmation|automated reply|automated response|automated answer"
    "|automated acknowledgement|automated acknowledgment|automated notification|automated message"
    "|automated confirmation|auto respond|auto-respond|autom. reply|autoreply|autoresponse|autoresponder|auto"
    "|out of the office reply|out of the office autoreply|out of the office auto-reply|out of the office message"
    "|out of the office notification|out of the office notice|out of the office|out of office reply"
    "|out of office autoreply|out of office auto-reply|out of office message|out of office notification"
    "|out of office notice|out of office|out-of-office reply|out-of-office|ooo|ooto|i am out of the office"
    "|i am out of office|i'm out of the office|i'm out of office|away from my mail|away from my desk"
    "|away from my office|away from the mail|away from the desk|away from the office|vacation reply"
    "|vacation message|vacation notice|vacation notification|vacation response|vacation alert|on vacation"
    "|on annual leave|holiday reply|holiday message|holiday notice|absence notice"
    "|absence notification|absence message|absent|automatische antwort|automatisches antwort"
    "|automatische rückmeldung|automatische nachricht|abwesenheitsnotiz|abwesenheitsnachricht"
    "|abwesenheitsmeldung|abwesenheitsassistent|abwesend|nicht im büro|im urlaub|urlaubsbenachrichtigung"
    "|autom. antwort|automatische abwesenheitsnotiz|außer haus|büroabwesenheit|réponse automatique|réponse auto"
    "|reponse automatique|message d'absence|absence du bureau|absent(e) du bureau|absent du bureau|absente du bureau"
    "|notification d'absence|en congés|en vacances|message automatique|respuesta automática|respuesta automatica"
    "|autorespuesta|fuera de la oficina|fuera de oficina|ausente|de vacaciones|mensaje automático"
    "|ausente de la oficina|ausencia de la oficina|risposta automatica|fuori sede|fuori ufficio|assente"
    "|in ferie|assente dall'ufficio|messaggio automatico|assenza dall'ufficio|resposta automática"
    "|resposta automatica|fora do escritório|ausência temporária|de férias|ausente do escritório"
    "|fora da empresa|mensagem automática|automatisch antwoord|automatische antwoord|automatisch bericht"
    "|automatische reactie|afwezigheidsbericht|afwezig|niet aanwezig|niet op kantoor|buiten kantoor"
    "|op vakantie|afwezigheidsassistent|automatiskt svar|autosvar|frånvarande|frånvaromeddelande"
    "|ej på kontoret|inte på kontoret|på semester|automatisk svar|automatisk besvarelse|fraværende"
    "|fraværsmelding|fraværsbesked|fraværsbeskjed|ikke på kontoret|ikke til stede|på ferie"
    "|automaattinen vastaus|automaattivastaus|poissa|poissaoloilmoitus|poissa toimistolta|lomalla"
    "|en ole paikalla|poissaoloviesti|autom. vastaus|odpowiedź automatyczna|automatyczna odpowiedź|autoodpowiedź"
    "|poza biurem|nieobecny|nieobecność w biurze|na urlopie|jestem na urlopie|automatická odpověď"
    "|automatická odpoveď|mimo kancelář|mimo kanceláriu|nepřítomen|na dovolené"
    "|mimo kancelárie|automatikus válasz|házon kívül|nem vagyok az irodában|szabadságon"
    "|irodán kívül|távolléti üzenet|automata válasz|răspuns automat|raspuns automat|absent din birou|în concediu"
    "|plecat din birou|nu sunt la birou|автоматический ответ|автоответ|автоответчик|нет на работе"
    "|отсутствие на рабочем месте|вне офиса|отсутствую|в отпуске|нет в офисе|автоматична відповідь"
    "|автовідповідь|у відпустці|поза офісом|немає на роботі|αυτόματη απάντηση|εκτός γραφείου"
    "|σε άδεια|απουσία από το γραφείο|otomatik yanıt|otomatik cevap|ofis dışında|ofis dışı|ofiste değil"
    "|izinde|tatilde|otomatik yanit|izindeyim|מענה אוטומטי|תשובה אוטומטית|מחוץ למשרד|בחופשה|הודעת היעדרות"
    "|لست في المكتب|رد تلقائي|الرد التلقائي|خارج المكتب|في إجازة|رد آلي|پاسخ خودکار|自动答复|自动回复|自動回覆"
    "|自動答覆|自动应答|不在办公室|不在辦公室|外出通知|外出自动回复|自動応答|自動返信|自動返答|不在通知"
    "|不在|不在のお知らせ|休暇中|不在連絡|자동 회신|자동회신|자동 응답|자동응답|부재중|부재 중|자동 답장"
    "|자동답장|휴가 중|부재중 알림|automaatvastus|kontorist väljas|automātiskā atbilde|automātiska atbilde"
    "|automatinis atsakymas|nesu biure|automatski odgovor|samodejni odgovor|автоматичен отговор|izvan ureda|odsoten"
    "|resposta automàtica|fora de l'oficina|trả lời tự động|thư trả lời tự động|balasan otomatis|jawapan automatik"
    "|auto-antwort|autoantwort|ich bin im urlaub|ich bin nicht im büro"
    "|ตอบกลับอัตโนมัติ|การตอบกลับอัตโนมัติ|स्वचालित उत्तर|स्वतः उत्तर"
)


def entries(table: str) -> tuple[str, ...]:
    """The alternatives of a table, without the empty ones."""
    return tuple(one for one in table.split("|") if one)
